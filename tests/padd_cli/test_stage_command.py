"""One command from end to end: streams, exit codes, what is refused, what the manifest records."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from padd_artifacts.artifact import open_artifact
from padd_artifacts.work import create
from padd_stages.lib.options.base import Inputs

Padd = Callable[..., Any]
pytestmark = pytest.mark.usefixtures("fake_stage")


def test_json_is_the_object_and_nothing_else(padd: Padd, tmp_path: Path) -> None:
    out = tmp_path / "o"
    result = padd("cluster", "--teacher", "t", "--out", out, "--json")
    assert result.code == 0
    shown = json.loads(result.out)
    artifact = open_artifact(out, "clusters")
    assert shown == {
        "path": str(out),
        "kind": "clusters",
        "digest": artifact.manifest.digest,
        "summary": {"xi": 1.0, "nested": {"steps": 10}},
    }
    assert "a library prints what it likes" in result.err


def test_people_get_a_table_on_stdout_and_progress_on_stderr(padd: Padd, tmp_path: Path) -> None:
    out = tmp_path / ("long" * 30)
    result = padd("cluster", "--teacher", "t", "--out", out)
    assert result.code == 0
    assert "nested.steps" in result.out
    assert str(out) in result.out, "a path is wrapped"
    assert "working" not in result.out
    assert "both at once" in result.err


def test_quiet_says_nothing_but_the_result(padd: Padd, tmp_path: Path) -> None:
    result = padd("cluster", "--teacher", "t", "--out", tmp_path / "o", "-q", "--json")
    assert result.err == "a library prints what it likes\n"


def test_the_manifest_says_where_each_option_came_from(padd: Padd, tmp_path: Path) -> None:
    assert padd("cluster", "--teacher", "t", "--xi", "2", "--out", tmp_path / "o").code == 0
    provenance = open_artifact(tmp_path / "o").manifest.provenance
    assert provenance.option_sources["xi"] == "flag"
    assert provenance.option_sources["steps"] == "default"
    assert provenance.option_sources["teacher"] == "flag"
    assert provenance.run_options == {"device": "auto"}


def test_dry_run_writes_nothing_and_needs_no_out(padd: Padd, tmp_path: Path) -> None:
    result = padd("cluster", "--teacher", "t", "--out", tmp_path / "o", "--dry-run")
    assert result.code == 0
    for word in ("clusters", "digest o", "rows", "learning_rate", "default"):
        assert word in result.out
    assert list(tmp_path.iterdir()) == []
    assert padd("cluster", "--teacher", "t", "--dry-run").code == 0


def test_out_is_needed(padd: Padd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result = padd("cluster", "--teacher", "t")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: --out is needed")
    monkeypatch.setenv("PADD_OUT", str(tmp_path / "o"))
    assert padd("cluster", "--teacher", "t").code == 0
    assert (tmp_path / "o" / "manifest.json").is_file()


def test_an_output_that_exists_is_refused_unless_forced(padd: Padd, tmp_path: Path) -> None:
    out = tmp_path / "o"
    assert padd("cluster", "--teacher", "t", "--out", out).code == 0
    before = open_artifact(out).manifest.digest
    result = padd("cluster", "--teacher", "t", "--xi", "2", "--out", out)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "--force" in result.err
    assert open_artifact(out).manifest.digest == before
    assert padd("cluster", "--teacher", "t", "--xi", "2", "--out", out, "--force").code == 0
    assert open_artifact(out).manifest.options["xi"] == 2.0


def test_resume_with_nothing_there_is_refused(padd: Padd, tmp_path: Path) -> None:
    result = padd("cluster", "--teacher", "t", "--out", tmp_path / "o", "--resume")
    assert result.code == 1
    assert "nothing to resume" in result.err


def test_an_interrupted_run_is_not_thrown_away_unasked(padd: Padd, tmp_path: Path) -> None:
    left = create(tmp_path / "o", "clusters", "k")
    left.keep()
    left.release()
    result = padd("cluster", "--teacher", "t", "--out", tmp_path / "o")
    assert result.code == 1
    assert f"{left.path} holds an interrupted run" in result.err
    assert left.resumable
    assert padd("cluster", "--teacher", "t", "--out", tmp_path / "o", "--force").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["o"]


class TestExitCodes:
    def test_refused_for_a_stated_reason(self, padd: Padd, tmp_path: Path) -> None:
        result = padd("cluster", "--teacher", "nowhere", "--out", tmp_path / "o")
        assert (result.code, result.out) == (1, "")
        assert "error: 'nowhere' is no model, so nothing can be clustered; name another.\n" in result.err
        assert list(tmp_path.iterdir()) == []

    def test_unexpected(self, padd: Padd, tmp_path: Path) -> None:
        result = padd("cluster", "--teacher", "crash", "--out", tmp_path / "o")
        assert (result.code, result.out) == (1, "")
        assert result.err == (
            "error: unexpected ZeroDivisionError: division by zero; run again with -vv for the traceback.\n"
        )

    @pytest.mark.parametrize("flags", [["-vv"], ["-v", "-v"], ["--verbose", "--verbose"]])
    def test_the_traceback_comes_with_vv(self, padd: Padd, tmp_path: Path, flags: list[str]) -> None:
        result = padd("cluster", "--teacher", "crash", "--out", tmp_path / "o", *flags)
        assert result.code == 1
        assert "Traceback (most recent call last)" in result.err
        assert "run again" not in result.err

    def test_interrupted(self, padd: Padd, tmp_path: Path) -> None:
        result = padd("cluster", "--teacher", "interrupt", "--out", tmp_path / "o")
        assert (result.code, result.err) == (130, "error: interrupted.\n")

    @pytest.mark.parametrize(
        ("argv", "words"),
        [
            (["cluster", "--teachr", "t"], "--teachr"),
            (["cluster", "stray"], "stray"),
            (["clustr"], "Did you mean 'cluster'?"),
            (["cluster", "--xi"], "--xi"),
        ],
    )
    def test_usage(self, padd: Padd, argv: list[str], words: str) -> None:
        result = padd(*argv)
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
        assert words in result.err


def test_help_has_panels_defaults_and_an_end(padd: Padd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    result = padd("cluster", "--help")
    assert result.code == 0
    for panel in ("Artifacts", "Method", "Training", "Run"):
        assert f"─ {panel} ─" in result.out
    for words in (
        "A fake [stage].",
        "MoE student [optional]. [default: none]",
        "off|old",
        "Temperature. [default: 1.0]",
        "--no-normalize",
        "Reads: a teacher.",
        "Writes: a fake.",
        "Example: padd cluster --teacher T --out O",
    ):
        assert words in result.out
    assert "Dense teacher. [default" not in result.out


def test_two_fields_of_one_name_are_a_mistake_in_this_package() -> None:
    from typing import Annotated

    from padd_cli.flags.fields import fields_of
    from padd_stages.lib.options.base import Artifacts, Options

    class Twice(Inputs):
        seed: Annotated[int, Artifacts("Again.")] = 0

    with pytest.raises(TypeError, match="'seed'"):
        fields_of(Twice, Options)
