"""`padd report`: a stage whose runs are words."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Padd = Callable[..., Any]


@pytest.fixture
def evaluation(make_evaluation: Callable[..., Path]) -> Path:
    return make_evaluation("g0", {"math": [1, 0, 0, 1, 0]})


def test_it_names_its_page(padd: Padd, evaluation: Path, tmp_path: Path) -> None:
    result = padd("report", f"GRPO={evaluation}", "--out", tmp_path / "page", "--json")
    assert result.code == 0, result.err
    page = Path(json.loads(result.out)["page"])
    assert page == tmp_path / "page" / "index.html"
    assert "GRPO" in page.read_text(encoding="utf-8")
    again = padd("report", f"GRPO={evaluation}", "--out", tmp_path / "page", "--force")
    assert str(page) in again.out


def test_a_dry_run_lists_what_it_found_and_writes_nothing(
    padd: Padd, evaluation: Path, tmp_path: Path
) -> None:
    before = sorted(tmp_path.iterdir())
    plan = json.loads(padd("report", evaluation, "--out", tmp_path / "page", "--dry-run", "--json").out)
    assert plan["kind"] == "report"
    assert [parent["path"] for parent in plan["parents"].values()] == [str(evaluation)]
    assert sorted(tmp_path.iterdir()) == before


def test_a_config_file_may_name_the_runs(padd: Padd, evaluation: Path, tmp_path: Path) -> None:
    config = tmp_path / "report.yaml"
    config.write_text(f"report:\n  runs: ['PADD={evaluation}']\n  out: {tmp_path / 'page'}\n")
    result = padd("report", "--config", config, "--dry-run", "--json")
    assert json.loads(result.out)["sources"]["runs"] == f"file:{config}"
    assert json.loads(result.out)["sizes"] == {"PADD": 1}


def test_no_runs(padd: Padd, tmp_path: Path) -> None:
    result = padd("report", "--out", tmp_path / "page")
    assert result.code == 2
    assert "RUN is needed (NAME=DIR" in result.err
    assert "PADD_RUNS" in result.err
