"""Tables of a clusters artifact: each teacher layer, each router, the router maps compared (METHOD.md, section 2)."""

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from padd_stages.lib.plots.table import MISSING, Cell, Table, cell, share

Report = Mapping[str, Any]
# Numbers of a teacher layer that have a mean over layers.
AVERAGED = (
    "explained",
    "random_mean",
    "random_spread",
    "silhouette",
    "stability",
    "selectivity",
    "selectivity_random",
)


def tables(report: Report) -> list[Table]:
    """Make tables of ``report.json`` of a clusters artifact; absent parts (no student, no split) are left out."""
    found = [_cluster_table(report), _router_table(report), _map_table(report)]
    return [table for table in found if table.rows]


def notes(report: Report) -> list[str]:
    """Return the verdicts on clusters and router, where they were measured."""
    return [report[key] for key in ("verdict", "router_verdict") if key in report]


def _cluster_table(report: Report) -> Table:
    layers = report.get("teacher_layers", {})
    rows = [
        {"teacher layer": Cell(number), **_cluster_cells(layers[number])}
        for number in sorted(layers, key=int)
    ]
    if len(rows) > 1:
        means = {name: _mean([layer.get(name) for layer in layers.values()]) for name in AVERAGED}
        rows.append({"teacher layer": Cell("mean"), **_cluster_cells(means)})
    return Table.of("Clusters of the teacher's neurons", rows)


def _cluster_cells(layer: Report) -> dict[str, Cell]:
    return {
        "variance explained, %": share(layer.get("explained")),
        "random clusters, %": _mean_and_spread(layer.get("random_mean"), layer.get("random_spread")),
        "silhouette": cell(layer.get("silhouette"), ".3f"),
        "stability, ARI": cell(layer.get("stability"), ".3f"),
        "sizes": _sizes(layer.get("smallest"), layer.get("largest")),
        "selectivity": cell(layer.get("selectivity"), ".3f"),
        "of random clusters": cell(layer.get("selectivity_random"), ".3f"),
    }


def _router_table(report: Report) -> Table:
    layers, places = report.get("router", {}), report.get("layer_map", {})
    rows = [
        {
            "MoE layer": Cell(number),
            "teacher layer": cell(places.get(number, {}).get("teacher_layer"), "d"),
            **_router_cells(layers[number]),
        }
        for number in sorted(layers, key=int)
    ]
    if len(rows) > 1:
        rows.append({"MoE layer": Cell("mean"), **_router_cells(_mean(list(layers.values())))})
    chance = {"chance": share(report.get("chance"))}
    return Table.of(
        "Recall of the teacher's most active cluster by the student's top-K on held-out text, %; maps at omega 1",
        [row | chance for row in rows],
    )


def _router_cells(layer: Report) -> dict[str, Cell]:
    maps = (layer.get("comparison") or {}).get("maps", {})
    others = {name: share(recalls["recall_unblended"]) for name, recalls in maps.items() if name != "keep"}
    return {
        "ridge R²": cell(layer.get("r_squared"), ".3f"),
        "in use": share(layer.get("recall")),
        **(others or {"new rows alone": share(layer.get("recall_unblended"))}),
        "old rows": share(layer.get("recall_old")),
    }


def _map_table(report: Report) -> Table:
    compared = report.get("comparison") or {}
    rows = [
        {
            "choice": Cell(f"--{flag} {name}"),
            "blended": share(recalls["recall"]),
            "omega 1": share(recalls["recall_unblended"]),
            "old rows": share(recalls.get("recall_old")),
            "chance": share(report.get("chance")),
        }
        for part, flag in (("maps", "router-map"), ("match", "match"))
        for name, recalls in compared.get(part, {}).items()
    ]
    return Table.of("The same recall by router map and matching, mean over MoE layers, %", rows)


def _mean(values: list[Any]) -> Any:
    """Compute the mean of numbers, or of objects of numbers key by key; None where some layer lacks one."""
    if any(value is None for value in values):
        return None
    if isinstance(values[0], Mapping):
        return {key: _mean([value.get(key) for value in values]) for key in values[0]}
    return fmean(values)


def _mean_and_spread(mean: float | None, deviation: float | None) -> Cell:
    if mean is None or deviation is None:
        return share(mean)
    return Cell(f"{100 * mean:.1f} ± {100 * deviation:.2f}")


def _sizes(smallest: int | None, largest: int | None) -> Cell:
    if smallest is None:
        return Cell(MISSING)
    return Cell(f"{smallest}" if smallest == largest else f"{smallest} to {largest}")
