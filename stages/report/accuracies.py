"""Accuracies of a page: the methods and the models they came from, greedy and sampled, as in `padd compare`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from padd_artifacts.artifact import Artifact
from padd_stages.compare.evaluations import Evaluation, Responses, align, read_evaluations
from padd_stages.compare.methods import Comparison, compare
from padd_stages.compare.published import load_published
from padd_stages.report.options import ReportOptions
from padd_stages.report.runs import RunArtifacts

STATE_NAMES = {"teacher": "teacher", "base": "base", "stage1": "Stage I"}
HELD_OUT = {"d": "D_D"}  # what an evaluation calls a split's D_D, and what people do
MODES = ("greedy", "sampled")


@dataclass(frozen=True)
class Results:
    """A comparison for each mode of evaluation, and notes on benchmarks that were evaluated twice."""

    comparisons: dict[str, Comparison]
    asked_twice: list[str]

    def as_json(self) -> dict[str, Any]:
        """Return the comparisons by mode."""
        return {mode: comparison.as_json() for mode, comparison in self.comparisons.items()}

    @property
    def notes(self) -> list[str]:
        """Sentences on what weakens the comparisons, each once."""
        notes = [note for found in self.comparisons.values() for note in found.notes]
        return list(dict.fromkeys([*notes, *self.asked_twice]))


def read_results(artifacts: RunArtifacts, options: ReportOptions) -> Results:
    """Compare everything that was evaluated; states come first, then methods in their order."""
    rows = _rows(artifacts)
    published = load_published(options.published) if options.published is not None else None
    comparisons: dict[str, Comparison] = {}
    twice: list[str] = []
    for mode in MODES:
        folders = {name: [e.path for run in runs for e in run] for name, runs in rows.items()}
        read = read_evaluations(folders, mode)
        evaluations = {name: _merged(name, rows[name], read[name], twice) for name in rows}
        asked = {name: runs for name, runs in evaluations.items() if any(run.benchmarks for run in runs)}
        if asked:
            comparisons[mode] = compare(
                align(asked), against=_reference(asked, options), seed=options.seed, published=published
            )
    return Results(comparisons, twice)


def _rows(artifacts: RunArtifacts) -> dict[str, list[list[Artifact]]]:
    """Return, by row, the evaluations of each of its runs."""
    states = {STATE_NAMES[state]: [[e] for e in held] for state, held in artifacts.states.items()}
    methods = {
        name: [run.evaluations for run in runs if run.evaluations] for name, runs in artifacts.methods.items()
    }
    merged = {name: states.get(name, []) + methods.get(name, []) for name in [*states, *methods]}
    return {name: runs for name, runs in merged.items() if runs}


def _merged(
    row: str, runs: list[list[Artifact]], read: list[Evaluation], twice: list[str]
) -> list[Evaluation]:
    """Merge the evaluations of each run: different benchmarks of one student, else the newest counts.

    A note on each superseded one is added to ``twice``.
    """
    left = iter(read)
    result = []
    for run in runs:
        mine = [next(left) for _ in run]
        benchmarks: dict[str, Responses] = {}
        for evaluation in mine:
            asked = {HELD_OUT.get(name, name): answers for name, answers in evaluation.benchmarks.items()}
            twice += [
                f"{row}: of two evaluations of one student on {name} the newer one counts."
                for name in asked
                if name in benchmarks
            ]
            benchmarks |= asked
        result.append(replace(mine[0], benchmarks=benchmarks))
    return result


def _reference(rows: Mapping[str, Any], options: ReportOptions) -> str | None:
    """Choose the row that differences are to: the option's, else the first of several methods, else the base."""
    if options.against is not None:
        return options.against if options.against in rows else None
    methods = [name for name in rows if name not in STATE_NAMES.values()]
    if len(methods) > 1:
        return methods[0]
    return next((name for name in ("base", "Stage I") if name in rows), None)
