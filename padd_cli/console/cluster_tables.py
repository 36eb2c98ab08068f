"""The numbers of a clusters artifact as tables: each teacher layer, each router, the maps side by side, a verdict."""

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from padd_cli.console.streams import say_line, say_table

Report = Mapping[str, Any]
MEANT = (
    "explained",
    "random_mean",
    "random_spread",
    "silhouette",
    "stability",
    "selectivity",
    "selectivity_random",
)


def show_clusters(report: Report) -> None:
    """Print report.json of a clusters artifact; what it lacks (no student, an earlier version) is left out."""
    say_table("clusters of each teacher layer", *_table(_cluster_rows(report)))
    say_table("held-out recall of each MoE layer's router, %; maps at omega 1", *_table(_router_rows(report)))
    say_table("held-out recall, %, mean over MoE layers", *_table(_compared_rows(report)))
    verdicts = [report[key] for key in ("verdict", "router_verdict") if key in report]
    if verdicts:
        say_line("; ".join(verdicts))


def _table(rows: list[dict[str, Any]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns and cells of rows that share their keys; columns without any value are left out."""
    columns = tuple(key for key in rows[0] if any(row[key] is not None for row in rows)) if rows else ()
    return columns, [tuple("" if row[key] is None else str(row[key]) for key in columns) for row in rows]


def _cluster_rows(report: Report) -> list[dict[str, Any]]:
    layers = report.get("teacher_layers", {})
    rows = [{"layer": number, **_cluster_cells(layers[number])} for number in sorted(layers, key=int)]
    if len(rows) > 1:
        means = {name: _mean([layer.get(name) for layer in layers.values()]) for name in MEANT}
        rows.append({"layer": "mean", **_cluster_cells(means)})
    return rows


def _cluster_cells(layer: Report) -> dict[str, str | None]:
    return {
        "variance %": _percent(layer.get("explained")),
        "random %": _spread(layer.get("random_mean"), layer.get("random_spread")),
        "silhouette": _number(layer.get("silhouette")),
        "ARI": _number(layer.get("stability")),
        "sizes": _sizes(layer.get("smallest"), layer.get("largest")),
        "selectivity": _number(layer.get("selectivity")),
        "of random": _number(layer.get("selectivity_random")),
    }


def _router_rows(report: Report) -> list[dict[str, Any]]:
    layers, places = report.get("router", {}), report.get("layer_map", {})
    rows = [
        {"layer": number, "teacher": places[number]["teacher_layer"], **_router_cells(layers[number])}
        for number in sorted(layers, key=int)
    ]
    if len(rows) > 1:
        rows.append({"layer": "mean", "teacher": None, **_router_cells(_mean(list(layers.values())))})
    return [row | {"chance": _percent(report.get("chance"))} for row in rows]


def _router_cells(layer: Report) -> dict[str, str | None]:
    maps = (layer.get("comparison") or {}).get("maps", {})
    others = {name: _percent(recalls["recall_unblended"]) for name, recalls in maps.items() if name != "keep"}
    return {
        "R^2": _number(layer.get("r_squared")),
        "in use": _percent(layer.get("recall")),
        **(others or {"omega 1": _percent(layer.get("recall_unblended"))}),
        "old": _percent(layer.get("recall_old")),
    }


def _compared_rows(report: Report) -> list[dict[str, Any]]:
    compared = report.get("comparison") or {}
    return [
        {
            "": f"--{flag} {name}",
            "blended": _percent(recalls["recall"]),
            "omega 1": _percent(recalls["recall_unblended"]),
            "old router": _percent(recalls.get("recall_old")),
            "chance": _percent(report.get("chance")),
        }
        for part, flag in (("maps", "router-map"), ("match", "match"))
        for name, recalls in compared.get(part, {}).items()
    ]


def _mean(values: list[Any]) -> Any:
    """Of numbers, or of objects of numbers key by key; what some layer lacks is None."""
    if any(value is None for value in values):
        return None
    if isinstance(values[0], Mapping):
        return {key: _mean([value.get(key) for value in values]) for key in values[0]}
    return fmean(values)


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.1f}"


def _spread(mean: float | None, deviation: float | None) -> str | None:
    return None if mean is None or deviation is None else f"{100 * mean:.1f} +- {100 * deviation:.2f}"


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"


def _sizes(smallest: int | None, largest: int | None) -> str | None:
    if smallest is None:
        return None
    return f"{smallest}" if smallest == largest else f"{smallest} to {largest}"
