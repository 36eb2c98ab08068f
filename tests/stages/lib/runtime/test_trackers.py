"""Trackers: what a tracker's package is called with, and what is said when it is not there."""

import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from accelerate import PartialState

from padd_artifacts.errors import UsageError
from padd_stages.lib.runtime.trackers import Trackers, require_tracker


class FakeRun:
    def __init__(self, **given: Any) -> None:
        self.given, self.logged, self.finished = given, [], False
        self.config: dict[str, Any] = {}

    def log(self, metrics: dict[str, float], step: int) -> None:
        self.logged.append((step, metrics))

    def finish(self) -> None:
        self.finished = True


class FakeWriter(FakeRun):
    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir=log_dir)

    def add_hparams(self, values: dict[str, Any], metric_dict: dict[str, float]) -> None:
        assert all(isinstance(value, (bool, int, float, str)) for value in values.values())
        self.config = values

    def add_scalar(self, tag: str, value: float, global_step: int) -> None:
        self.logged.append((tag, value, global_step))

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.finished = True


class ConfigUpdate:
    def __init__(self, run: FakeRun) -> None:
        self.run = run

    def update(self, values: dict[str, Any], allow_val_change: bool) -> None:
        self.run.config = values


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Fake packages in place of the real ones; what they opened."""
    PartialState()  # accelerate's loggers want it; a run has it
    runs: list[Any] = []

    def opener(module: ModuleType, kind: type[FakeRun]) -> Any:
        def start(*given: Any, **named: Any) -> FakeRun:
            runs.append(kind(*given, **named))
            module.config = ConfigUpdate(runs[-1])  # what wandb.config is once a run has begun
            return runs[-1]

        return start

    for name, function, kind in (
        ("wandb", "init", FakeRun),
        ("trackio", "init", FakeRun),
        ("torch.utils.tensorboard", "SummaryWriter", FakeWriter),
    ):
        module = ModuleType(name)
        setattr(module, function, opener(module, kind))
        monkeypatch.setitem(sys.modules, name, module)
    return runs


def test_run_name_config_and_metrics_reach_every_tracker(opened: list[Any], tmp_path: Path) -> None:
    config = {"steps": 3, "reward": ["accuracy"]}
    with Trackers(
        ["wandb", "trackio", "tensorboard"], run_name="r", config=config, folder=tmp_path
    ) as trackers:
        trackers.log(7, {"reward": 0.5, "rewards/own/std": math.nan, "skipped_updates": 0})
    wandb, trackio, board = opened
    for run in (wandb, trackio):
        assert run.given == {"project": "padd", "name": "r"}
        assert run.logged == [(7, {"reward": 0.5, "skipped_updates": 0})]
    assert board.given["log_dir"] == str(tmp_path / "r")
    assert [run.config for run in opened] == [{"steps": 3, "reward": '["accuracy"]'}] * 3
    assert board.logged == [("reward", 0.5, 7), ("skipped_updates", 0, 7)]
    assert [run.finished for run in opened] == [True] * 3


def test_trackers_end_with_a_run_that_fails(opened: list[Any], tmp_path: Path) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        Trackers(["wandb"], run_name="r", config={}, folder=tmp_path),
    ):
        raise KeyboardInterrupt
    assert opened[0].finished


@pytest.mark.parametrize(
    ("name", "module"),
    [("wandb", "wandb"), ("trackio", "trackio"), ("tensorboard", "torch.utils.tensorboard")],
)
def test_a_missing_package_is_one_sentence_with_the_command(
    monkeypatch: pytest.MonkeyPatch, name: Any, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=f"--tracker {name} needs .*`pip install {name}`") as caught:
        require_tracker(name)
    assert "\n" not in str(caught.value)
