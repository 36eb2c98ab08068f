"""Evaluation artifacts as what a comparison works on: for each method a score per run and problem of each benchmark.

Whatever would make a comparison wrong without showing is refused here: other problems, another way of asking, the
same run counted twice.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from padd_artifacts.artifact import Artifact, open_artifact
from padd_artifacts.errors import PaddError
from padd_artifacts.manifest import MANIFEST_NAME, read_manifest

Floats = NDArray[np.float64]
Mode = Literal["headline", "greedy", "sampled"]

# A run whose Stage III did not act as it should is labelled in every table (docs/METHOD.md, section 4).
LABELLED_STATES = ("inactive", "saturated")


@dataclass(frozen=True)
class Answers:
    """One benchmark in one run. ``texts`` are the problems by id, ``scores`` (P,) in the same order, in [0, 1]."""

    mode: str
    samples: int
    texts: dict[str, str]
    scores: Floats

    @property
    def measure(self) -> str:
        """How a table calls the score: ``greedy`` or ``avg@k``."""
        return "greedy" if self.mode == "greedy" else f"avg@{self.samples}"


@dataclass(frozen=True)
class Evaluation:
    """One evaluated model, a run of a method."""

    artifact: Artifact
    benchmarks: dict[str, Answers]

    @cached_property
    def stage3(self) -> str | None:
        """What the training of the evaluated student says of its Stage III, if that can still be read."""
        manifest = self.artifact.manifest
        if "stage3" in manifest.summary:
            return manifest.summary["stage3"]
        model = manifest.parents.get("model")
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
    """A column: how many problems, and what was measured on them (``greedy``, ``avg@4``)."""

    problems: int
    measure: str


@dataclass(frozen=True)
class Compared:
    """Everything that a comparison is computed from; ``notes`` are sentences on what weakens it."""

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


def align(methods: Mapping[str, Sequence[Evaluation]]) -> Compared:
    """Bring all runs into one order of problems.

    A method has a benchmark if all of its runs do.

    Raises:
        PaddError: runs were asked other problems, or in another way, under one benchmark's name.
    """
    everyone = [run for runs in methods.values() for run in runs]
    names = list(dict.fromkeys(name for run in everyone for name in run.benchmarks))
    benchmarks = {name: _benchmark(name, everyone) for name in names}
    rows = []
    for method, runs in methods.items():
        complete = [name for name in names if all(name in run.benchmarks for run in runs)]
        scores = {name: _ordered(name, runs, everyone) for name in complete}
        rows.append(Method(method, len(runs), scores, _stage3(runs)))
    if not any(row.scores for row in rows):
        raise PaddError(
            "no benchmark has responses of the mode asked for in every run of a method, so there is nothing to "
            "compare; choose another --mode, or evaluate again."
        )
    return Compared(rows, benchmarks, _notes(methods, names))


def _read(path: Path, mode: Mode) -> Evaluation:
    artifact = open_artifact(path, "evaluation")
    reports = artifact.report.get("benchmarks")
    if reports is None:
        raise PaddError(
            f"{path} was written by a padd that did not know benchmarks, so its problems cannot be matched; "
            "evaluate the model again."
        )
    rows: dict[tuple[str, str], dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for row in artifact.jsonl("responses.jsonl"):
        rows[row["benchmark"], row["mode"]][str(row["id"])].append(row)
    found = {}
    for name, report in reports.items():
        wanted = report["headline"] if mode == "headline" else mode
        if asked := rows.get((name, wanted)):
            texts = {key: answers[0]["problem"] for key, answers in asked.items()}
            scores = [fmean(answer["score"] for answer in answers) for answers in asked.values()]
            found[name] = Answers(wanted, max(map(len, asked.values())), texts, np.array(scores))
    return Evaluation(artifact, found)


def _benchmark(name: str, everyone: Sequence[Evaluation]) -> Benchmark:
    """The column of one benchmark, once all that have it are known to have been asked the same."""
    having = [run for run in everyone if name in run.benchmarks]
    first, ours = having[0], having[0].benchmarks[name]
    for other in having[1:]:
        theirs = other.benchmarks[name]
        pair = f"{first.artifact.path} and {other.artifact.path}"
        if theirs.mode != ours.mode:
            raise PaddError(
                f"{name} is {ours.measure} in {first.artifact.path} and {theirs.measure} in {other.artifact.path}, "
                "which are different quantities; choose --mode greedy or --mode sampled."
            )
        if theirs.texts != ours.texts:
            raise PaddError(
                f"{pair} were asked different problems under the name '{name}' ({_difference(ours, theirs)}), so their "
                "difference would be one of problems too; evaluate both on the same ones."
            )
    measures = dict.fromkeys(run.benchmarks[name].measure for run in having)
    return Benchmark(len(ours.texts), "/".join(measures))


def _difference(ours: Answers, theirs: Answers) -> str:
    left, right = len(ours.texts.keys() - theirs.texts.keys()), len(theirs.texts.keys() - ours.texts.keys())
    if left or right:
        return f"{left} only in the first, {right} only in the second"
    changed = sum(text != theirs.texts[key] for key, text in ours.texts.items())
    return f"the same ids, another text in {changed} of {len(ours.texts)}"


def _ordered(name: str, runs: Sequence[Evaluation], everyone: Sequence[Evaluation]) -> Floats:
    """(S, P) scores in the order of the first run that has the benchmark."""
    order = next(run.benchmarks[name].texts for run in everyone if name in run.benchmarks)
    rows = []
    for run in runs:
        answers = run.benchmarks[name]
        by_id = dict(zip(answers.texts, answers.scores, strict=True))
        rows.append([by_id[key] for key in order])
    return np.array(rows)


def _stage3(runs: Sequence[Evaluation]) -> str | None:
    """``inactive`` if all runs are so labelled, ``inactive in 1 of 3 runs`` if some; None if none."""
    states = [run.stage3 for run in runs if run.stage3 in LABELLED_STATES]
    if not states:
        return None
    label = " or ".join(sorted({str(state) for state in states}))
    return label if len(states) == len(runs) else f"{label} in {len(states)} of {len(runs)} runs"


def _notes(methods: Mapping[str, Sequence[Evaluation]], names: Sequence[str]) -> list[str]:
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
    options = [run.artifact.manifest.options for runs in methods.values() for run in runs]
    keys = dict.fromkeys(key for given in options for key in given)
    differing = [key for key in keys if any(given.get(key) != options[0].get(key) for given in options)]
    if differing:
        notes.append(
            f"the evaluations were made with different {', '.join(differing)}, which may be what differs."
        )
    return notes
