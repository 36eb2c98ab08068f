"""inspect, verify and doctor on tiny artifacts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from padd_artifacts.artifact import Artifact
from padd_artifacts.manifest import SCHEMA_VERSION, Parent, file_parent
from padd_artifacts.plan import Plan
from padd_artifacts.writer import ArtifactWriter, Output
from padd_stages.lib.models.names import ALIASES
from padd_stages.lib.options.base import Options

Padd = Callable[..., Any]
Make = Callable[..., Artifact]


def edit_manifest(artifact: Artifact, **values: Any) -> None:
    path = artifact.path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


class TestInspect:
    def test_tables(self, padd: Padd, make_artifact: Make) -> None:
        artifact = make_artifact(
            xi=2.5, parents={"teacher": Parent(kind="model", digest="abcdefghij", path="t")}
        )
        result = padd("inspect", artifact.path)
        assert result.code == 0
        manifest = artifact.manifest
        for words in (manifest.digest, "abcdefgh ", "learning_rate", "data.json", "padd cluster", "accuracy"):
            assert words in result.out
        xi = next(line for line in result.out.splitlines() if " xi " in line and "flag" in line)
        assert "2.5" in xi

    def test_json(self, padd: Padd, make_artifact: Make) -> None:
        artifact = make_artifact()
        shown = json.loads(padd("inspect", artifact.path, "--json").out)
        assert shown == {"path": str(artifact.path), **artifact.manifest.model_dump(mode="json")}

    def test_refused(self, padd: Padd, tmp_path: Path, make_artifact: Make) -> None:
        assert padd("inspect", tmp_path / "nothing").code == 1
        newer = make_artifact()
        edit_manifest(newer, schema_version=SCHEMA_VERSION + 1)
        result = padd("inspect", newer.path)
        assert result.code == 1
        assert f"schema {SCHEMA_VERSION + 1} and this padd reads up to {SCHEMA_VERSION}" in result.err


class TestVerify:
    def test_whole(self, padd: Padd, make_artifact: Make) -> None:
        artifact = make_artifact()
        result = padd("verify", artifact.path, "--json")
        assert result.code == 0
        assert json.loads(result.out) == {
            "path": str(artifact.path),
            "digest": artifact.manifest.digest,
            "files": 1,
            "parents": {},
            "ok": True,
        }

    def test_a_changed_byte(self, padd: Padd, make_artifact: Make) -> None:
        artifact = make_artifact()
        (artifact.path / "data.json").write_text("[]\n")
        result = padd("verify", artifact.path)
        assert (result.code, result.out, result.err.count("\n")) == (1, "", 1)
        assert "data.json has changed since it was written" in result.err

    def test_an_edited_manifest(self, padd: Padd, make_artifact: Make) -> None:
        artifact = make_artifact()
        edit_manifest(artifact, seed=1)
        result = padd("verify", artifact.path)
        assert result.code == 1
        assert "edited by hand" in result.err

    def test_parents(self, padd: Padd, make_artifact: Make, tmp_path: Path) -> None:
        problems = tmp_path / "problems.jsonl"
        problems.write_text("1\n")
        older = make_artifact("older")
        gone = Parent(kind="split", digest="d", path=str(tmp_path / "gone"))
        child = make_artifact(
            "child", parents={"clusters": older.as_parent(), "problems": file_parent(problems), "split": gone}
        )
        shown = json.loads(padd("verify", child.path, "--json").out)
        assert shown["parents"] == {"clusters": "matches", "problems": "matches", "split": "not there"}
        problems.write_text("2\n")
        result = padd("verify", child.path)
        assert result.code == 1
        assert f"was made from problems {problems} with digest" in result.err

    def test_a_parent_that_was_made_again(self, padd: Padd, make_artifact: Make, tmp_path: Path) -> None:
        child = make_artifact("child", parents={"clusters": make_artifact("older").as_parent()})
        (tmp_path / "older").rename(tmp_path / "aside")
        make_artifact("older", xi=2.0)
        result = padd("verify", child.path)
        assert (result.code, result.err.count("\n")) == (1, 1)
        assert "do not belong together" in result.err

    def test_against_the_same(self, padd: Padd, make_artifact: Make) -> None:
        a, b = make_artifact("a"), make_artifact("b")
        assert padd("verify", a.path, "--against", b.path).code == 0

    def test_against_another_says_why(self, padd: Padd, make_artifact: Make) -> None:
        a, b = make_artifact("a"), make_artifact("b", xi=2.0, seed=3, text="[]\n")
        result = padd("verify", a.path, "--against", b.path, "--json")
        assert result.code == 1
        reasons = json.loads(result.out)["differences"]
        assert reasons[1:] == ["options differ: xi", "seed 0 against 3", "files differ: data.json"]

    @pytest.mark.parametrize(("tolerance", "code"), [("0.5", 1), ("1.0", 0), ("2", 0)])
    def test_within_a_tolerance(self, padd: Padd, make_artifact: Make, tolerance: str, code: int) -> None:
        a, b = make_artifact("a"), make_artifact("b", xi=2.0)
        result = padd("verify", a.path, "--against", b.path, "--tolerance", tolerance)
        assert result.code == code
        assert ("xi is 1 against 2 (more than 0.5 apart)" in result.err) == (code == 1)

    @pytest.mark.parametrize("argv", [["--tolerance", "1"], ["--against", "{b}", "--tolerance", "-1"]])
    def test_usage(self, padd: Padd, make_artifact: Make, argv: list[str]) -> None:
        a, b = make_artifact("a"), make_artifact("b")
        assert padd("verify", a.path, *[word.format(b=b.path) for word in argv]).code == 2


class TestDoctor:
    def test_text_and_json(self, padd: Padd, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PADD_STEPS", "3")
        result = padd("doctor", "--json")
        found = json.loads(result.out)
        assert (result.code, found["problems"]) == (0, [])
        assert found["aliases"] == ALIASES
        assert found["environment"] == {"PADD_STEPS": "3"}
        text = padd("doctor").out
        for words in (
            "torch:",
            "faiss:",
            "math-verify: 1 of 1 checks pass; known to work",
            "Qwen2.5-Math-7B: Qwen/Qwen2.5-Math-7B",
        ):
            assert words in text

    def test_a_broken_library_is_named_with_its_cure(
        self, padd: Padd, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken() -> None:
            raise ImportError("libgomp is missing")

        monkeypatch.setattr("padd_cli.commands.doctor._faiss", broken)
        result = padd("doctor")
        assert result.code == 1
        assert "faiss does not work here (ImportError: libgomp is missing)" in result.out


def test_inspect_shows_the_tables_of_a_kind(padd: Padd, tmp_path: Path) -> None:
    recalls = {"recall": 0.5, "recall_unblended": 0.4}
    report = {"verdict": "words of a verdict", "comparison": {"maps": {"truncate": recalls}}}
    with ArtifactWriter(Output(tmp_path / "made"), Plan("clusters", Options(seed=0), {})) as writer:
        writer.write_json("report.json", report)
    shown = padd("inspect", tmp_path / "made").out
    assert "--router-map truncate" in shown
    assert "words of a verdict" in shown
    assert json.loads(padd("inspect", tmp_path / "made", "--json").out)["kind"] == "clusters"
