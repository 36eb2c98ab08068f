"""Tables of a comparison: cells that the console and Markdown share, and long rows for CSV."""

import csv
import io
from collections.abc import Mapping
from typing import Any

from padd_stages.compare.methods import Comparison, Estimate, Row
from padd_stages.lib.plots.table import MISSING, Cell, Table, percent_interval


def tables(report: Mapping[str, Any]) -> list[Table]:
    """Make :func:`comparison_tables` of ``report.json``."""
    return comparison_tables(Comparison.from_json(report))


def notes(report: Mapping[str, Any]) -> list[str]:
    """Return the sentences on what weakens the comparison."""
    return [f"note: {note}" for note in report["notes"]]


def comparison_tables(comparison: Comparison) -> list[Table]:
    """Make tables of accuracies and, where there is a row to compare with, of the differences to it."""
    accuracy = Table(
        "accuracy, % (95 % interval over seeds and problems)",
        ["method", "seeds", *(comparison.head(column) for column in comparison.columns)],
        [_accuracy_row(comparison, row) for row in comparison.rows],
    )
    if comparison.against is None:
        return [accuracy]
    others = [row for row in comparison.rows if not row.published and row.name != comparison.against]
    shared = [column for column in comparison.columns if any(column in row.difference for row in others)]
    if not shared:
        return [accuracy]
    difference = Table(
        f"difference to {comparison.against}, points (95 % interval, paired by problem)",
        ["method", *(comparison.head(column) for column in shared)],
        [[Cell(row.label), *(_cell(row.difference, column, "+.1f") for column in shared)] for row in others],
    )
    return [accuracy, difference]


def markdown(comparison: Comparison) -> str:
    """Return the tables and the notes as one Markdown text."""
    parts = [table.markdown() for table in comparison_tables(comparison)]
    if comparison.notes:
        parts.append("\n".join(f"* {note}" for note in comparison.notes))
    return "\n\n".join(parts) + "\n"


def long_csv(comparison: Comparison) -> str:
    """Return one line a method and column: shares in [0, 1]; unknown values are empty."""
    lines = [
        _line(comparison, row, column)
        for row in comparison.rows
        for column in comparison.columns
        if column in row.accuracy
    ]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()


def _line(comparison: Comparison, row: Row, column: str) -> dict[str, Any]:
    benchmark, apart = comparison.benchmarks.get(column), row.difference.get(column)
    estimate = row.accuracy[column]
    return {
        "method": row.name,
        "published": row.published,
        "seeds": row.runs or None,
        "stage3": row.stage3,
        "column": column,
        "problems": benchmark and benchmark.problems,
        "measure": benchmark and benchmark.measure,
        "accuracy": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "difference": apart and apart.value,
        "difference_low": apart and apart.low,
        "difference_high": apart and apart.high,
    }


def _accuracy_row(comparison: Comparison, row: Row) -> list[Cell]:
    cells = [
        _cell(row.accuracy, column, ".1f", best=not row.published and row.name in comparison.best(column))
        for column in comparison.columns
    ]
    return [Cell(row.label), Cell(str(row.runs) if row.runs else ""), *cells]


def _cell(estimates: Mapping[str, Estimate], column: str, form: str, *, best: bool = False) -> Cell:
    if column not in estimates:
        return Cell(MISSING)
    estimate = estimates[column]
    value = format(100 * estimate.value, form)
    if estimate.low is None or estimate.high is None:
        return Cell(value)
    return Cell(value, percent_interval(estimate.low, estimate.high, form), best)
