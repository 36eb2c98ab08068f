"""examples/reward.py: its scores by hand, and a run that it is named in."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from padd_artifacts.artifact import open_artifact


@pytest.fixture
def module(examples: Path) -> Any:
    spec = importlib.util.spec_from_file_location("example_reward", examples / "reward.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_scores(module: Any) -> None:
    scores = module.steps_shown(
        completions=["3 + 4 = 7", "so 7", "3 + 4 = 7", "7", "no number"],
        solution=["3 + 4 = 7, 7 * 2.5"] * 3 + [None, "1"],
        truncated=[False, False, True, False, False],
        subject=["algebra"] * 5,
    )
    assert scores == [3 / 4, 1 / 4, 0.0, None, 0.0]


def test_its_command_trains_with_it(here: Path, pico: Any, command: Any, padd: Any) -> None:
    places = {
        "runs/toy/toy/student": str(pico.student),
        "runs/toy/toy/teacher": str(pico.teacher),
        "runs/toy/split": str(pico.split),
    }
    code, err = padd([places.get(word, word) for word in command("reward.py")])
    assert code == 0, err
    artifact = open_artifact(here / "runs" / "shown", "student")
    [row] = artifact.jsonl("metrics.jsonl")
    assert row["rewards/steps_shown/mean"] is not None, "the problems have worked solutions"
    expected = row["rewards/accuracy/mean"] + 0.2 * row["rewards/steps_shown/mean"]
    assert row["reward"] == pytest.approx(expected)
    assert "examples/reward.py:steps_shown" in artifact.manifest.options["reward"]
