"""`padd compare` on evaluations in the format that `padd eval` writes."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from padd_artifacts.artifact import open_artifact
from padd_artifacts.errors import UsageError
from padd_artifacts.plan import Plan
from padd_artifacts.writer import ArtifactWriter, Output
from padd_cli.console.streams import styled
from padd_stages.evaluate.options import EvaluateOptions
from padd_stages.lib.options.runs import parse_runs
from padd_stages.lib.plots.table import Cell

Padd = Callable[..., Any]


@pytest.fixture
def folder(make_evaluation: Callable[..., Path]) -> Path:
    """Evaluations g0 and g1 of GRPO, p0 of PADD, and one without a benchmark."""
    make_evaluation("g0", {"math": [1, 0, 0, 1, 0], "aime": [[1, 0], [0, 0]]})
    make_evaluation("g1", {"math": [1, 1, 0, 1, 0], "aime": [[1, 1], [0, 0]]}, seed=1)
    make_evaluation("short", {"math": [1, 0, 0, 1, 1]})
    return make_evaluation("p0", {"math": [1, 1, 0, 1, 1], "aime": [[1, 0], [1, 0]]}).parent


def test_tables(padd: Padd, folder: Path) -> None:
    result = padd(
        "compare", f"GRPO={folder}/g0,{folder}/g1", f"PADD={folder}/p0", folder / "short", "--against", "GRPO"
    )
    assert (result.code, result.err) == (0, "")
    lines = [
        [cell.strip() for cell in line.split("│")[1:-1]] for line in result.out.splitlines() if "│" in line
    ]
    assert [line[0] for line in lines if line[0]] == ["GRPO", "PADD", "short", "PADD", "short"]
    values = [[cell.split(" (")[0] for cell in line] for line in lines]
    assert values[0] == ["GRPO", "2", "50.0", "37.5", "43.8"]
    assert values[2] == ["short", "1", "60.0", "–", "–"]
    assert values[3][:3] == ["PADD", "+30.0", "+12.5"]
    assert lines[0][2] == "50.0 (10.0 to 100.0)"
    assert "difference to GRPO" in result.out


def test_json_is_one_object_on_stdout(padd: Padd, folder: Path) -> None:
    result = padd("compare", f"GRPO={folder}/g0,{folder}/g1", folder / "p0", "--published", "qwen", "--json")
    found = json.loads(result.out)
    assert result.code == 0
    assert [row["name"] for row in found["rows"] if not row["published"]] == ["GRPO", "p0"]
    assert found["rows"][0]["by_run"]["math"] == pytest.approx([0.4, 0.6])
    assert found["benchmarks"]["aime"] == {"problems": 2, "measure": "avg@2"}
    assert found["best"]["math"] == ["p0"]
    assert len(found["rows"]) == 10


def test_an_artifact_is_written_and_the_same_one_again(padd: Padd, folder: Path, tmp_path: Path) -> None:
    words = ["compare", f"GRPO={folder}/g0", f"GRPO={folder}/g1", f"PADD={folder}/p0", "--against", "GRPO"]
    shown = json.loads(padd(*words, "--json", "--out", tmp_path / "a").out)
    assert padd(*words, "--out", tmp_path / "b").code == 0
    artifact = open_artifact(tmp_path / "a", "comparison")
    assert artifact.manifest.digest == open_artifact(tmp_path / "b").manifest.digest == shown["digest"]
    assert list(artifact.manifest.parents) == ["GRPO/0", "GRPO/1", "PADD/0"]
    assert sorted(artifact.manifest.files) == ["accuracy.png", "report.json", "table.csv", "table.md"]
    assert shown["summary"] == artifact.manifest.summary
    assert artifact.report == json.loads(padd(*words, "--json").out)
    assert "| PADD | 1 | **80.0** (" in artifact.file("table.md").read_text()
    with artifact.file("table.csv").open() as handle:
        assert [row["method"] for row in csv.DictReader(handle)] == ["GRPO"] * 3 + ["PADD"] * 3
    assert artifact.manifest.summary["PADD"]["math"] == pytest.approx(0.8)
    assert padd("verify", artifact.path).code == 0
    refused = padd(*words, "--out", tmp_path / "a")
    assert (refused.code, refused.out) == (1, "")
    assert "is not overwritten" in refused.err


def test_nothing_is_written_for_bad_input(padd: Padd, folder: Path, tmp_path: Path) -> None:
    assert padd("compare", folder / "g0", folder / "nothing", "--out", tmp_path / "out").code == 1
    assert not list(tmp_path.glob("out*"))


def test_another_kind_of_artifact_is_refused(
    padd: Padd, folder: Path, make_artifact: Callable[..., Any]
) -> None:
    result = padd("compare", f"GRPO={folder}/g0", f"split={make_artifact().path}")
    assert (result.code, result.out, result.err.count("\n")) == (1, "", 1)
    assert "is an artifact of kind 'clusters' where one of kind 'evaluation' is needed" in result.err


def test_evaluations_without_benchmarks_are_refused(padd: Padd, tmp_path: Path) -> None:
    with ArtifactWriter(Output(tmp_path / "old"), Plan("evaluation", EvaluateOptions(), {})) as writer:
        writer.write_json("report.json", {"problems": 3})
    result = padd("compare", tmp_path / "old")
    assert result.code == 1
    assert "old was written by a padd that did not know benchmarks" in result.err


def test_the_best_of_a_column_is_bold() -> None:
    best = Cell("61.4", "58.2 to 64.4", best=True)
    assert styled(best, " ").markup == "[bold]61.4[/bold] (58.2 to 64.4)"
    assert styled(Cell("61.4"), "\n").markup == "61.4"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--against", "PADD"], "--against is 'PADD', which is no method here"),
        (["--mode", "loud"], "--mode is 'loud', but it must be one of headline, greedy, sampled"),
        (["--published", "gpt"], "it must be one of qwen, deepseek, ablation"),
        (["=x"], "'=x' is not NAME=DIR"),
        (["PADD="], "'PADD=' is not NAME=DIR"),
    ],
)
def test_usage(padd: Padd, folder: Path, words: list[str], sentence: str) -> None:
    result = padd("compare", f"GRPO={folder}/g0", *words)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert sentence in result.err


def test_no_run_at_all(padd: Padd) -> None:
    assert padd("compare").code == 2


class TestRuns:
    def test_seeds_by_comma_and_by_repeating_the_name(self) -> None:
        expected = {"GRPO": [Path("a"), Path("b")], "Online KD": [Path("c")]}
        assert parse_runs(["GRPO=a,b", "Online KD=c"]) == expected
        assert parse_runs(["GRPO=a", "Online KD=c", "GRPO=b"]) == expected

    def test_a_folder_alone_is_called_like_itself(self, tmp_path: Path) -> None:
        (tmp_path / "lr=1e-4").mkdir()
        assert parse_runs(["runs/eval/trained/"]) == {"trained": [Path("runs/eval/trained/")]}
        assert parse_runs([str(tmp_path / "lr=1e-4")]) == {"lr=1e-4": [tmp_path / "lr=1e-4"]}

    @pytest.mark.parametrize("words", [["a/eval", "b/eval"], ["eval=a", "b/eval"], ["b/eval", "eval=a"]])
    def test_folders_are_not_taken_for_seeds_because_of_their_name(self, words: list[str]) -> None:
        with pytest.raises(UsageError, match="both called 'eval'"):
            parse_runs(words)
