"""Comparison of methods: accuracies over seeds and problems, and differences to one (docs/METHOD.md, section 6)."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
from pydantic import TypeAdapter

from padd_stages.compare.evaluations import AlignedScores, Benchmark, Floats, Method
from padd_stages.compare.published import Published
from padd_stages.lib.measures.intervals import bootstrap_means, percentile_interval

AVERAGE = "average"  # the column of the unweighted mean over benchmarks


@dataclass(frozen=True)
class Estimate:
    """A share in [0, 1], or a difference of two, with its 95 % interval; a published number has none."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Row:
    """One method by column; a column that it has no number for is missing. ``runs`` is 0 for a published row."""

    name: str
    runs: int
    accuracy: dict[str, Estimate]
    by_run: dict[str, list[float]] = field(default_factory=dict)
    difference: dict[str, Estimate] = field(default_factory=dict)
    stage3: str | None = None

    @property
    def published(self) -> bool:
        """Whether the row is the paper's, not measured here."""
        return self.runs == 0

    @property
    def label(self) -> str:
        """The name as tables and figures show it."""
        if self.published:
            return f"{self.name} (published)"
        return f"{self.name} (Stage III {self.stage3})" if self.stage3 else self.name


@dataclass(frozen=True)
class Comparison:
    """Comparison table: ``benchmarks`` are the measured columns, ``columns`` all columns, in order."""

    rows: list[Row]
    benchmarks: dict[str, Benchmark]
    columns: list[str]
    against: str | None
    notes: list[str]

    @classmethod
    def from_json(cls, report: Mapping[str, Any]) -> Self:
        """Read the comparison that :meth:`as_json` wrote."""
        return TypeAdapter(cls).validate_python(report)

    def best(self, column: str) -> list[str]:
        """Return the measured rows of the highest value in a column; none if fewer than two are measured."""
        values = {
            row.name: row.accuracy[column].value
            for row in self.rows
            if not row.published and column in row.accuracy
        }
        return [name for name, value in values.items() if len(values) > 1 and value == max(values.values())]

    def head(self, column: str) -> str:
        """Return a column's title, with its measure and number of problems if it was measured here."""
        benchmark = self.benchmarks.get(column)
        return column if benchmark is None else f"{column} ({benchmark})"

    def as_json(self) -> dict[str, Any]:
        """Return all numbers, for ``report.json`` and ``--json``."""
        return {
            "against": self.against,
            "benchmarks": {name: asdict(benchmark) for name, benchmark in self.benchmarks.items()},
            "columns": self.columns,
            "rows": [asdict(row) | {"published": row.published} for row in self.rows],
            "best": {column: self.best(column) for column in self.columns},
            "notes": self.notes,
        }


@dataclass(frozen=True)
class _Resampled:
    """One method's number in one column: (S,) by run, and (draws,) of the bootstrap."""

    by_run: Floats
    draws: Floats

    def accuracy(self) -> Estimate:
        return Estimate(float(self.by_run.mean()), *percentile_interval(self.draws))

    def minus(self, other: "_Resampled") -> Estimate:
        value = float(self.by_run.mean() - other.by_run.mean())
        return Estimate(value, *percentile_interval(self.draws - other.draws))


def compare(
    aligned: AlignedScores, *, against: str | None = None, seed: int = 0, published: Published | None = None
) -> Comparison:
    """Compute means, intervals, and paired differences to the method ``against``.

    The bootstrap draws runs and problems anew, together. A draw of problems is the same for all methods, so that
    differences are paired by problem; a draw of runs is a method's own, and the same for all of its benchmarks.

    Args:
        against: a method's name; its difference to itself is left out.
        published: rows to put below the measured ones.
    """
    names = list(aligned.benchmarks)
    resampled = {method.name: _resample(method, names, seed) for method in aligned.methods}
    reference = resampled[against] if against is not None else {}
    rows = [
        _row(method, resampled[method.name], reference if method.name != against else {})
        for method in aligned.methods
    ]
    columns, notes = names, aligned.notes
    if published is not None:
        rows += [_published_row(name, percents) for name, percents in published.rows.items()]
        columns = [name for name in dict.fromkeys([*names, *published.columns]) if name != AVERAGE]
        notes = [*notes, f"{published.note} That of the measured rows is over {', '.join(names)}."]
    if len(columns) > 1 and any(AVERAGE in row.accuracy for row in rows):
        columns = [*columns, AVERAGE]
    return Comparison(rows, aligned.benchmarks, columns, against, notes)


def _resample(method: Method, names: Sequence[str], seed: int) -> dict[str, _Resampled]:
    """Resample by column; benchmarks draw their problems independently. The average needs every benchmark."""
    run_seed = zlib.crc32(f"{seed} {method.name}".encode())  # independent of the other rows
    found = {
        name: _Resampled(
            by_run=method.scores[name].mean(axis=1),
            draws=bootstrap_means(method.scores[name], seed=seed + number, run_seed=run_seed),
        )
        for number, name in enumerate(names)
        if name in method.scores
    }
    if len(found) == len(names):
        found[AVERAGE] = _Resampled(
            by_run=np.mean([column.by_run for column in found.values()], axis=0),
            draws=np.mean([column.draws for column in found.values()], axis=0),
        )
    return found


def _row(method: Method, columns: Mapping[str, _Resampled], reference: Mapping[str, _Resampled]) -> Row:
    return Row(
        name=method.name,
        runs=method.runs,
        accuracy={name: column.accuracy() for name, column in columns.items()},
        by_run={name: column.by_run.tolist() for name, column in columns.items()},
        difference={
            name: column.minus(reference[name]) for name, column in columns.items() if name in reference
        },
        stage3=method.stage3,
    )


def _published_row(name: str, percents: Mapping[str, float]) -> Row:
    return Row(name, 0, {column: Estimate(percent / 100) for column, percent in percents.items()})
