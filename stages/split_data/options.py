"""Inputs and options of ``split-data``."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from padd_stages.lib.options.base import Artifacts, Inputs, Method, Options


class SplitInputs(Inputs):
    """Inputs of ``split-data``."""

    problems: Annotated[
        str,
        Artifacts(
            "Problems: a .jsonl, .json, .parquet or .csv file, or a hub data set owner/name[/config][:split]."
        ),
    ]
    benchmarks: Annotated[
        list[Path],
        Artifacts(
            "Benchmark files whose problems, near duplicates too, are removed from the data, and listed."
        ),
    ] = Field(default_factory=list)


class SplitOptions(Options):
    """Options of ``split-data``."""

    ratios: Annotated[
        tuple[float, float, float, float],
        Method(
            "Shares of D_A (clusters), D_B (warmup), D_C (training) and D_D (held out); they add up to 1."
        ),
    ] = (0.10, 0.20, 0.65, 0.05)  # docs/METHOD.md, section 1
    exact_counts: Annotated[
        bool, Method("Cut at exact counts; a problem's subset then depends on the other rows too.")
    ] = False
    contamination_threshold: Annotated[
        float,
        Method(
            "Share of common three-word runs from which a row and a benchmark problem are listed as similar; the row "
            "is removed if their numbers agree too. 1: the same words alone."
        ),
    ] = Field(0.4, gt=0, le=1)
    problem_column: Annotated[str, Artifacts("Column of the problem.")] = "problem"
    answer_column: Annotated[str, Artifacts("Column of the gold answer.")] = "answer"
    solution_column: Annotated[str, Artifacts("Column of the worked solution (may be absent).")] = "solution"
    subject_column: Annotated[str, Artifacts("Column of the data's own subdomain label (may be absent).")] = (
        "subject"
    )
