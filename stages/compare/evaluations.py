"""Evaluations as input of a comparison: by method a score per run and problem of each benchmark.

Whatever would make a comparison wrong without showing is refused here: other problems, another way of asking, the
same run counted twice.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from padd_artifacts.artifact import Artifact, open_artifact
from padd_artifacts.errors import PaddError
from padd_artifacts.manifest import MANIFEST_NAME, read_manifest
from padd_stages.lib.options.shared import Mode

Floats = NDArray[np.float64]

# A run whose Stage III did not act as it should is labelled in every table (docs/METHOD.md, section 4).
LABELLED_STATES = ("inactive", "saturated")
# Options of an evaluation that set how much is generated, not how; and those that greedy responses do not depend on.
COUNT_OPTIONS = {"greedy", "samples", "limit"}
SAMPLED_OPTIONS = {"temperature", "top_p"}


@dataclass(frozen=True)
class Responses:
    """Scores of one benchmark in one run.

    ``problems`` (text and gold) and ``scores`` (in [0, 1], mean over samples) are by id; ``options`` are
    those of the generation.
    """

    mode: str
    samples: int
    problems: dict[Any, tuple[Any, Any]]
    scores: dict[Any, float]
    options: dict[str, Any]

    @property
    def measure(self) -> str:
        """Title of the score: ``greedy`` or ``avg@k``."""
        return "greedy" if self.mode == "greedy" else f"avg@{self.samples}"


@dataclass(frozen=True)
class Evaluation:
    """One evaluated model, a run of a method."""

    artifact: Artifact
    benchmarks: dict[str, Responses]

    @cached_property
    def stage3(self) -> str | None:
        """Stage III label of the evaluated student's training, if that can still be read."""
        model = self.artifact.manifest.parents.get("model")
        if model is None or not (Path(model.path) / MANIFEST_NAME).is_file():
            return None
        student = read_manifest(Path(model.path))
        return student.summary.get("stage3") if student.digest == model.digest else None


@dataclass(frozen=True)
class Method:
    """A row of the comparison: ``scores`` (S, P) by benchmark, S the runs, P its problems in one order for all rows."""

    name: str
    runs: int
    scores: dict[str, Floats]
    stage3: str | None = None


@dataclass(frozen=True)
class Benchmark:
    """A column: the number of problems and the measure (``greedy``, ``avg@4``)."""

    problems: int
    measure: str

    def __str__(self) -> str:
        return f"{self.measure}, n = {self.problems}"


@dataclass(frozen=True)
class AlignedScores:
    """Scores of all methods in one order of problems; ``notes`` are sentences on what weakens a comparison."""

    methods: list[Method]
    benchmarks: dict[str, Benchmark]
    notes: list[str]


def read_evaluations(folders: Mapping[str, Sequence[Path]], mode: Mode) -> dict[str, list[Evaluation]]:
    """Open the runs of each method.

    Args:
        folders: by method, one evaluation artifact a run.
        mode: which responses count: the greedy ones, the sampled ones, or those of each benchmark's protocol.

    Raises:
        PaddError: a folder is no whole evaluation, or two are the same one.
    """
    seen: dict[str, Path] = {}
    methods: dict[str, list[Evaluation]] = {}
    for name, paths in folders.items():
        methods[name] = [_read(path, mode) for path in paths]
        for evaluation in methods[name]:
            digest, path = evaluation.artifact.manifest.digest, evaluation.artifact.path
            if digest in seen:
                raise PaddError(
                    f"{seen[digest]} and {path} are the same evaluation (digest {digest[:8]}), so counting both would "
                    "make intervals too narrow; name each run once."
                )
            seen[digest] = path
    return methods


def align(methods: Mapping[str, Sequence[Evaluation]]) -> AlignedScores:
    """Align all runs to one order of problems.

    A method has a benchmark if all of its runs do.

    Raises:
        PaddError: runs were asked other problems, or in another way, under one benchmark's name.
    """
    names = list(dict.fromkeys(name for runs in methods.values() for run in runs for name in run.benchmarks))
    having = {
        name: [run for runs in methods.values() for run in runs if name in run.benchmarks] for name in names
    }
    benchmarks = {name: _benchmark(name, runs) for name, runs in having.items()}
    order = {name: list(runs[0].benchmarks[name].problems) for name, runs in having.items()}
    rows = []
    for method, runs in methods.items():
        scores = {
            name: np.array([[run.benchmarks[name].scores[key] for key in keys] for run in runs])
            for name, keys in order.items()
            if all(name in run.benchmarks for run in runs)
        }
        rows.append(Method(method, len(runs), scores, _stage3(runs)))
    if not any(row.scores for row in rows):
        raise PaddError(
            "no benchmark has responses of the mode asked for in every run of a method, so there is nothing to "
            "compare; choose another --mode, or evaluate again."
        )
    notes = [*_notes_on_methods(methods, names), *_notes_on_asking(having)]
    return AlignedScores(rows, benchmarks, notes)


def _read(path: Path, mode: Mode) -> Evaluation:
    artifact = open_artifact(path, "evaluation")
    reports = artifact.report.get("benchmarks")
    if reports is None:
        raise PaddError(
            f"{path} was written by a padd that did not know benchmarks, so its problems cannot be matched; "
            "evaluate the model again."
        )
    rows: dict[tuple[str, str], dict[Any, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for row in artifact.jsonl("responses.jsonl"):
        rows[row["benchmark"], row["mode"]][row["id"]].append(row)
    found = {}
    for name, report in reports.items():
        wanted = report["headline"] if mode == "headline" else mode
        if asked := rows.get((name, wanted)):
            options = artifact.manifest.options | report.get("protocol", {})
            found[name] = _scores(wanted, asked, options)
    return Evaluation(artifact, found)


def _scores(mode: str, asked: Mapping[Any, Sequence[dict[str, Any]]], options: dict[str, Any]) -> Responses:
    """Summarise ``asked``, the rows of responses.jsonl by problem."""
    ignored = COUNT_OPTIONS | (SAMPLED_OPTIONS if mode == "greedy" else set())
    return Responses(
        mode=mode,
        samples=min(map(len, asked.values())),  # as the evaluation itself says
        problems={key: (rows[0]["problem"], rows[0]["answer"]) for key, rows in asked.items()},
        scores={key: fmean(row["score"] for row in rows) for key, rows in asked.items()},
        options={name: value for name, value in options.items() if name not in ignored},
    )


def _benchmark(name: str, having: Sequence[Evaluation]) -> Benchmark:
    """Return the column of one benchmark after checking that all its runs had the same problems and mode."""
    first, ours = having[0], having[0].benchmarks[name]
    for other in having[1:]:
        theirs = other.benchmarks[name]
        if theirs.mode != ours.mode:
            raise PaddError(
                f"{name} is {ours.measure} in {first.artifact.path} and {theirs.measure} in {other.artifact.path}, "
                "which are different quantities; choose --mode greedy or --mode sampled."
            )
        if theirs.problems != ours.problems:
            raise PaddError(
                f"{first.artifact.path} and {other.artifact.path} were asked different problems under the name "
                f"'{name}' ({_difference(ours, theirs)}), so their difference would be one of problems too; evaluate "
                "both on the same ones."
            )
    measures = dict.fromkeys(run.benchmarks[name].measure for run in having)
    return Benchmark(len(ours.problems), "/".join(measures))


def _difference(ours: Responses, theirs: Responses) -> str:
    mine, others = ours.problems.keys(), theirs.problems.keys()
    if mine != others:
        return f"{len(mine - others)} only in the first, {len(others - mine)} only in the second"
    changed = sum(problem != theirs.problems[key] for key, problem in ours.problems.items())
    return f"the same ids, another text or answer in {changed} of {len(mine)}"


def _stage3(runs: Sequence[Evaluation]) -> str | None:
    """Return ``inactive`` if all runs are so labelled, ``inactive in 1 of 3 runs`` if some; None if none."""
    states = [run.stage3 for run in runs if run.stage3 in LABELLED_STATES]
    if not states:
        return None
    label = " or ".join(sorted({str(state) for state in states}))
    return label if len(states) == len(runs) else f"{label} in {len(states)} of {len(runs)} runs"


def _notes_on_methods(methods: Mapping[str, Sequence[Evaluation]], names: Sequence[str]) -> list[str]:
    notes = []
    for method, runs in methods.items():
        models = [run.artifact.manifest.parents.get("model") for run in runs]
        digests = [model.digest for model in models if model is not None]
        if len(set(digests)) < len(digests):
            notes.append(
                f"{method}: several runs evaluate one model, so they are seeds of the sampling, not of the training."
            )
        for name in names:
            lacking = sum(name not in run.benchmarks for run in runs)
            if 0 < lacking < len(runs):
                notes.append(
                    f"{method}: {name} is missing in {lacking} of {len(runs)} runs, so it is left out of the row."
                )
    return notes


def _notes_on_asking(having: Mapping[str, Sequence[Evaluation]]) -> list[str]:
    notes = []
    for name, runs in having.items():
        first, *others = (run.benchmarks[name].options for run in runs)
        names = dict.fromkeys(option for given in (first, *others) for option in given)
        differing = [
            option for option in names if any(given.get(option) != first.get(option) for given in others)
        ]
        if differing:
            notes.append(
                f"{name} was asked with different {', '.join(differing)}, which may be what differs."
            )
    return notes
