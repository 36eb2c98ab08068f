"""Tables of an evaluation: a row a benchmark, then accuracies by subject and level (docs/METHOD.md, section 6)."""

from collections.abc import Mapping
from typing import Any

from padd_stages.lib.plots.table import Cell, Table, cell, share

Report = Mapping[str, Any]


def tables(report: Report) -> list[Table]:
    """Make tables of ``report.json`` of an evaluation, in percent."""
    benchmarks: Mapping[str, Report] = report["benchmarks"]
    rows = [{"benchmark": Cell(name), **_cells(entry)} for name, entry in benchmarks.items()]
    if len(benchmarks) > 1:
        for row, entry in zip(rows, benchmarks.values()):
            row["headline"] = _accuracy(entry[entry["headline"]])
        average = share(report["average"], report["average_interval"])
        rows.append({"benchmark": Cell("average of the headlines"), "headline": average})
    groups = [_group_table(benchmarks, label) for label in ("subject", "level")]
    return [Table.of("accuracy, %", rows), *(table for table in groups if table.rows)]


def notes(report: Mapping[str, Any]) -> list[str]:
    """Return no notes: the tables hold everything."""
    return []


def _cells(entry: Report) -> dict[str, Cell]:
    headline, sampled = entry[entry["headline"]], entry.get("sampled")
    k = None if sampled is None else sampled["samples"]
    return {
        "problems": Cell(str(entry["problems"])),
        "greedy": _accuracy(entry.get("greedy")),
        "avg@k": _accuracy(sampled, f" (k {k})"),
        "pass@k": share(sampled and sampled["pass_at_k"][str(k)]),
        "maj@k": share(sampled and sampled["maj_at_k"]),
        "mean tokens": cell(headline["tokens"] and headline["tokens"]["mean"], ".0f"),
        "truncated, %": share(headline["truncated"]),
    }


def _accuracy(numbers: Report | None, note: str = "") -> Cell:
    return share(None) if numbers is None else share(numbers["accuracy"], numbers["interval"], note)


def _group_table(benchmarks: Mapping[str, Report], label: str) -> Table:
    rows = [
        {
            "benchmark": Cell(name),
            label: Cell(group),
            "problems": Cell(str(numbers["problems"])),
            "accuracy": _accuracy(numbers),
        }
        for name, entry in benchmarks.items()
        for group, numbers in entry[entry["headline"]][f"{label}s"].items()
    ]
    return Table.of(f"accuracy by {label}, %", rows)
