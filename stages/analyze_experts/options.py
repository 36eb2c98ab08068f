"""Inputs and options of `padd analyze-experts` (METHOD.md, section 8)."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from padd_stages.lib.options.base import Artifacts, Inputs, Method, Options, Run
from padd_stages.lib.options.shared import (
    DEFAULT_SYSTEM,
    AttnImplementation,
    Device,
    Dtype,
    ExpertsImplementation,
    SystemPrompt,
    Thinking,
)


class AnalyzeInputs(Inputs):
    """Inputs of analyze-experts."""

    student: Annotated[str, Artifacts("MoE to analyse: a padd student, a folder, hub id or short name.")]
    split: Annotated[Path | None, Artifacts("A split artifact; its D_D is read, unless --problems.")] = None
    problems: Annotated[
        Path | None,
        Artifacts("File of problems (JSONL, CSV, parquet), with solution and subdomain where there are any."),
    ] = None
    clusters: Annotated[
        Path | None, Artifacts("The clusters artifact of this student, for the teacher's heatmap.")
    ] = None
    teacher: Annotated[
        str | None,
        Artifacts("The clusters' teacher, to compare experts with their clusters token by token."),
    ] = None
    stage1: Annotated[str | None, Artifacts("The student after Stage I, to compare with.")] = None
    base: Annotated[str | None, Artifacts("The untouched student, to compare with.")] = None


class AnalyzeOptions(Options):
    """Options of a routing analysis."""

    max_problems: Annotated[int, Method("Most problems read; beyond that a random sample.")] = Field(
        1000, ge=1
    )
    max_tokens: Annotated[int, Method("Longest text, in tokens; the rest of a longer one is not read.")] = (
        Field(4096, ge=1)
    )
    probe_tokens: Annotated[
        int,
        Method("Tokens, of random problems, on which every expert runs and models are compared one by one."),
    ] = Field(8192, ge=1)
    layer: Annotated[
        int | None, Method("Decoder layer of the heatmaps; none takes the one of the student's highest NMI.")
    ] = Field(None, ge=0)
    permutations: Annotated[int, Method("Shuffles of the labels, for the permutation baseline.")] = Field(
        100, ge=20
    )
    system: SystemPrompt = DEFAULT_SYSTEM
    thinking: Thinking = False
    dtype: Dtype = "auto"
    batch_tokens: Annotated[int, Run("Padded tokens in one forward pass.")] = Field(8192, ge=1)
    attn_implementation: AttnImplementation = None
    experts_implementation: ExpertsImplementation = None
    device: Device = "auto"
