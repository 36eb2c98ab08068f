"""What people read of a clusters artifact: every layer, its mean, every map and matching, one verdict."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from padd_artifacts.plan import Plan
from padd_artifacts.writer import ArtifactWriter, Output
from padd_cli.console.cluster_tables import show_clusters
from padd_stages.lib.options.base import Options


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


def printed(report: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """Cells of every row that is printed, and other lines as one cell."""
    show_clusters(report)
    lines = capsys.readouterr().out.splitlines()
    return [[cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")] for line in lines]


def test_every_layer_in_order_and_the_means(capsys: pytest.CaptureFixture[str]) -> None:
    rows = printed(REPORT, capsys)
    columns = ["layer", "variance %", "random %", "silhouette", "sizes", "selectivity", "of random"]
    assert columns in rows, "ARI has no value and should have no column"
    first = rows.index(columns) + 2
    assert rows[first : first + 3] == [
        ["2", "10.0", "1.4 +- 0.09", "0.058", "64 to 65", "0.100", "0.070"],
        ["10", "30.0", "1.4 +- 0.09", "0.058", "64 to 65", "0.200", "0.070"],
        ["mean", "20.0", "1.4 +- 0.09", "0.058", "", "0.150", "0.070"],
    ]
    columns = ["layer", "teacher", "R^2", "in use", "ridge", "random-projection", "truncate", "old", "chance"]
    first = rows.index(columns) + 2
    assert rows[first : first + 3] == [
        ["0", "2", "0.500", "30.0", "61.0", "24.0", "23.0", "31.0", "25.0"],
        ["1", "10", "0.400", "40.0", "61.0", "24.0", "23.0", "31.0", "25.0"],
        ["mean", "", "0.450", "35.0", "61.0", "24.0", "23.0", "31.0", "25.0"],
    ]
    assert ["--router-map truncate", "32.0", "23.0", "", "25.0"] in rows
    assert ["--match index", "35.0", "61.0", "31.0", "25.0"] in rows
    assert rows[-1] == ["clusters explain something; the router finds something"]


def test_what_a_report_lacks_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    alone = {"verdict": "v", "teacher_layers": {"0": teacher_layer(0.1, None)}}
    rows = printed(alone, capsys)
    assert not any("selectivity" in row or "recall" in " ".join(row) for row in rows)
    assert rows[-1] == ["v"]
    layers = {m: {**layer, "comparison": None} for m, layer in REPORT["router"].items()}
    rows = printed(REPORT | {"router": layers, "comparison": None}, capsys)
    assert ["layer", "teacher", "R^2", "in use", "omega 1", "old", "chance"] in rows
    assert not any("--match" in row[0] for row in rows)
    assert printed({}, capsys) == []


def test_inspect_shows_the_tables_and_json_stays_one_object(padd: Callable[..., Any], tmp_path: Path) -> None:
    with ArtifactWriter(Output(tmp_path / "made"), Plan("clusters", Options(seed=0), {})) as writer:
        writer.write_json("report.json", REPORT)
    assert "--router-map truncate" in padd("inspect", tmp_path / "made").out
    shown = padd("inspect", tmp_path / "made", "--json").out
    assert json.loads(shown)["kind"] == "clusters"
