"""`--without`: each stage reaches the command that it is part of, and the manifest says why a value is what it is."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from padd_cli.flags.ablations import ABLATIONS
from padd_cli.flags.config import load_config
from padd_cli.pipeline.runner import Runner, load_commands
from padd_cli.pipeline.steps import pipeline_settings, pipeline_steps

Padd = Callable[..., Any]
STAGE_OPTIONS = {"stage1": "assign", "stage2": "phi", "stage3": "drift_lambda", "stage4": "gamma"}


@pytest.fixture
def config(tmp_path: Path) -> Callable[[str], Path]:
    def write(without: str = "[]", train: str = "{}") -> Path:
        path = tmp_path / "p.yaml"
        path.write_text(
            f"pipeline: {{teacher: t, student: s, problems: p, without: {without}}}\ntrain: {train}\n"
        )
        return path

    return write


def plan(padd: Padd, pico: Any, *argv: object) -> dict[str, Any]:
    inputs = ["--student", pico.student, "--teacher", pico.teacher, "--split", pico.split]
    result = padd("train", *inputs, "--dry-run", "--json", *argv)
    assert result.code == 0, result.err
    return json.loads(result.out)


def resolved(path: Path, without: tuple[str, ...] | None = None) -> dict[str, tuple[Any, str]]:
    """Value and source of each ablated option in the steps that `padd run` would make."""
    config = load_config(str(path))
    settings = pipeline_settings(config)
    steps = pipeline_steps(settings, Path("runs"))
    commands = load_commands({step.command for step in steps})
    runner = Runner(config, commands, without=settings.without if without is None else without)
    found = {step.name: runner.resolve_step(step) for step in steps if step.command in ("cluster", "train")}
    teacher = found.pop("teacher-grpo")
    assert (teacher.options.phi, teacher.sources["phi"]) == ("inverse", "default")
    owner = {stage: found[command] for stage, (command, _) in ABLATIONS.items()}
    return {
        stage: (getattr(owner[stage].options, option), owner[stage].sources[option])
        for stage, option in STAGE_OPTIONS.items()
    }


def test_options_and_their_source(padd: Padd, pico: Any) -> None:
    shown = plan(padd, pico, "--without", "stage2,stage3, stage4", "--preset", "padd")
    options, sources = shown["options"], shown["sources"]
    assert (options["phi"], options["drift_lambda"], options["gamma"]) == ("fixed", 0.0, 0.0)
    assert options["eta"] > 0  # frequency balancing stays
    assert options["kd_weight"] > 0  # and so does distillation
    assert (sources["phi"], sources["drift_lambda"], sources["gamma"]) == (
        "without:stage2",
        "without:stage3",
        "without:stage4",
    )


def test_without_stands_between_flag_and_environment(
    padd: Padd, pico: Any, config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PADD_GAMMA", "0.5")
    path = config(train="{phi: literal, gamma: 0.3}")
    options = plan(padd, pico, "--config", path, "--without", "stage2,stage4")["options"]
    assert (options["phi"], options["gamma"]) == ("fixed", 0.0)
    argv = ["--student", pico.student, "--split", pico.split, "--out", "o"]
    result = padd("train", *argv, "--without", "stage4", "--gamma", "0.1")
    assert result.code == 2
    assert "--gamma 0.1 contradicts --without stage4" in result.err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--without", "stage1"], ["padd cluster", "padd run"]),
        (["--without", "stage5"], ["'stage5'", "did you mean"]),
        (["--without", "stage2", "--section", "teacher-grpo"], ["nothing in teacher-grpo", "padd train"]),
    ],
)
def test_refused(padd: Padd, argv: list[str], words: list[str]) -> None:
    result = padd("train", "--student", "s", "--split", "x", "--out", "o", *argv)
    assert result.code == 2
    assert result.err.count("\n") == 1
    for word in words:
        assert word in result.err


def test_only_commands_with_a_stage_have_the_flag(padd: Padd) -> None:
    for command in ("cluster", "train", "run"):
        assert "--without" in padd(command, "--help").out, command
    for command in ("warmup", "eval"):
        assert "--without" not in padd(command, "--help").out, command


def test_a_run_gives_each_stage_to_its_command(config: Callable[..., Path]) -> None:
    plain = resolved(config())
    assert plain["stage1"] == ("kmeans", "default")
    everything = resolved(config("[stage1, stage2, stage3, stage4]"))
    assert everything == {
        "stage1": ("random", "without:stage1"),
        "stage2": ("fixed", "without:stage2"),
        "stage3": (0.0, "without:stage3"),
        "stage4": (0.0, "without:stage4"),
    }
    one = resolved(config("stage3"))  # a single word is a list of one
    assert one == plain | {"stage3": (0.0, "without:stage3")}
    assert resolved(config("stage3"), ("stage1",)) == plain | {"stage1": ("random", "without:stage1")}


def test_the_command_typed_by_hand_follows_the_same_file(
    padd: Padd, pico: Any, config: Callable[..., Path]
) -> None:
    shown = plan(padd, pico, "--config", config("[stage1, stage4]"))
    assert shown["sources"]["gamma"] == "without:stage4"
    assert shown["sources"]["phi"] == "default"


def test_a_wrong_stage_in_a_file(padd: Padd, config: Callable[..., Path]) -> None:
    result = padd("run", config("[stage9]"), "--dry-run")
    assert result.code == 2
    assert "'without' in section 'pipeline:'" in result.err


def test_an_ablation_has_a_folder_of_its_own(padd: Padd) -> None:
    """What it is to be compared with must not be replaced by it."""
    result = padd("run", "toy", "--without", "stage1,stage4", "--dry-run", "--json")
    assert json.loads(result.out)["out"] == "runs/toy-without-stage1-stage4"
