"""What people read of a clusters artifact: every layer, its mean, every map and matching, one verdict."""

from typing import Any

from padd_stages.cluster.view import notes, tables


def recalls(blended: float, unblended: float) -> dict[str, float]:
    return {"recall": blended, "recall_unblended": unblended}


def router_layer(recall: float, r_squared: float) -> dict[str, Any]:
    maps = {
        "ridge": recalls(recall, 0.61),
        "random-projection": recalls(0.33, 0.24),
        "truncate": recalls(0.32, 0.23),
        "keep": recalls(0.31, 0.31),
    }
    match = {name: recalls(recall, 0.61) | {"recall_old": 0.31} for name in ("hungarian", "index")}
    numbers = {"r_squared": r_squared, "recall_old": 0.31, **recalls(recall, 0.61)}
    return numbers | {"comparison": {"maps": maps, "match": match}}


def teacher_layer(explained: float, selectivity: float | None) -> dict[str, Any]:
    return {
        "smallest": 64,
        "largest": 65,
        "explained": explained,
        "random_mean": 0.014,
        "random_spread": 0.0009,
        "silhouette": 0.058,
        "stability": None,
        "verdict": "words",
        "selectivity": selectivity,
        "selectivity_random": 0.07,
    }


REPORT = {
    "verdict": "clusters explain something",
    "router_verdict": "the router finds something",
    "chance": 0.25,
    "teacher_layers": {"10": teacher_layer(0.3, 0.2), "2": teacher_layer(0.1, 0.1)},
    "layer_map": {str(m): {"student_layer": m, "teacher_layer": t} for m, t in ((0, 2), (1, 10))},
    "router": {"0": router_layer(0.3, 0.5), "1": router_layer(0.4, 0.4)},
    "comparison": router_layer(0.35, 0.45)["comparison"],
}


def shown(report: dict[str, Any]) -> list[list[list[str]]]:
    """Of each table its columns and then its rows, as text."""
    return [
        [table.columns, *([cell.value for cell in row] for row in table.rows)] for table in tables(report)
    ]


def test_every_layer_in_order_and_the_means() -> None:
    clusters, routers, maps = shown(REPORT)
    assert clusters == [
        [
            "teacher layer",
            "variance explained, %",
            "random clusters, %",
            "silhouette",
            "sizes",
            "selectivity",
            "of random clusters",
        ],
        ["2", "10.0", "1.4 ± 0.09", "0.058", "64 to 65", "0.100", "0.070"],
        ["10", "30.0", "1.4 ± 0.09", "0.058", "64 to 65", "0.200", "0.070"],
        ["mean", "20.0", "1.4 ± 0.09", "0.058", "–", "0.150", "0.070"],
    ], "ARI has no value and should have no column"
    head = ["MoE layer", "teacher layer", "ridge R²", "in use", "ridge", "random-projection", "truncate"]
    assert routers == [
        [*head, "old rows", "chance"],
        ["0", "2", "0.500", "30.0", "61.0", "24.0", "23.0", "31.0", "25.0"],
        ["1", "10", "0.400", "40.0", "61.0", "24.0", "23.0", "31.0", "25.0"],
        ["mean", "–", "0.450", "35.0", "61.0", "24.0", "23.0", "31.0", "25.0"],
    ]
    assert ["--router-map truncate", "32.0", "23.0", "–", "25.0"] in maps
    assert ["--match index", "35.0", "61.0", "31.0", "25.0"] in maps
    assert notes(REPORT) == ["clusters explain something", "the router finds something"]


def test_what_a_report_lacks_is_left_out() -> None:
    alone = {"verdict": "v", "teacher_layers": {"0": teacher_layer(0.1, None)}}
    (clusters,) = shown(alone)
    assert "selectivity" not in clusters[0]
    assert notes(alone) == ["v"]
    layers = {m: {**layer, "comparison": None} for m, layer in REPORT["router"].items()}
    _, routers = shown(REPORT | {"router": layers, "comparison": None})
    head = ["MoE layer", "teacher layer", "ridge R²", "in use", "new rows alone", "old rows", "chance"]
    assert routers[0] == head
    assert (shown({}), notes({})) == ([], [])
