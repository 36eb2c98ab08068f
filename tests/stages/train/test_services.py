"""What stands around the loop: rewards of one's own, the choice of the best student, trackers, broken updates."""

from pathlib import Path
from typing import Any

import pytest
import torch

from padd_artifacts.artifact import Artifact
from padd_artifacts.errors import PaddError, UsageError
from padd_artifacts.writer import Output
from padd_stages.lib.models.loading import load_model
from padd_stages.lib.runtime.optimization import MAX_BROKEN_UPDATES
from padd_stages.train import loop
from padd_stages.train import stage as train
from padd_stages.train.options import TrainInputs, TrainOptions
from padd_stages.train.update import Updater

SMALL = {
    "steps": 4,
    "prompts_per_step": 2,
    "num_generations": 3,
    "max_completion_length": 5,
    "learning_rate": 1e-2,
    "lr_warmup_steps": 0,
    "lr_schedule": "constant",
    "checkpoint_every": 1,
    "truncated": "keep",
    "eta": 0.1,
    "workers": 1,
}
# Every step has another reward, and the second step the highest.
REWARD = """
calls = []
def rising_then_falling(completions, truncated, solution, **columns):
    calls.append(len(completions))
    assert truncated == [len(ids) == 5 for ids in columns["completion_ids"]]
    return [[1.0, 4.0, 2.0, 3.0][len(calls) - 1] + len(c) % 7 / 10 for c in completions]
"""


@pytest.fixture
def reward(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    path = tmp_path / f"own_{abs(hash(request.node.name))}.py"
    path.write_text(REWARD)
    return f"{path}:rising_then_falling"


def inputs_of(pico: Any) -> TrainInputs:
    return TrainInputs(student=str(pico.student), teacher=str(pico.teacher), split=pico.split)


def run(pico: Any, out: Path, **options: Any) -> Artifact:
    return train.run(inputs_of(pico), TrainOptions(**(SMALL | options)), Output(out))


def test_a_reward_of_ones_own_is_logged_and_in_the_recipe(pico, tmp_path, reward):
    options = TrainOptions(**SMALL, reward=(reward,))
    before = train.plan(inputs_of(pico), options).key
    artifact = run(pico, tmp_path / "out", reward=(reward,))
    rows = artifact.jsonl("metrics.jsonl")
    assert [int(row["rewards/rising_then_falling/mean"]) for row in rows] == [1, 4, 2, 3]
    assert [row["reward"] for row in rows] == [row["rewards/rising_then_falling/mean"] for row in rows]
    assert all(row["rewards/rising_then_falling/std"] > 0 for row in rows)
    samples = artifact.jsonl("samples.jsonl")
    assert [sample["step"] for sample in samples] == [step for step in (1, 2, 3, 4) for _ in range(4)]
    assert all(sample["reward"] == pytest.approx(sample["rewards/rising_then_falling"]) for sample in samples)
    assert artifact.manifest.options["reward"] == [reward]
    assert artifact.manifest.key == before
    path = Path(reward.rpartition(":")[0])
    path.write_text(path.read_text() + "# changed\n")
    assert train.plan(inputs_of(pico), options).key != before


def test_the_best_checkpoint_is_the_result_when_asked_for(pico, tmp_path, reward, monkeypatch):
    kept = {}
    original = loop.save_checkpoint

    def keeping(folder, step, **given):
        kept[step] = {name: p.detach().clone() for name, p in given["parameters"].items()}
        kept[step] |= {name: tensor.clone() for name, tensor in given["tensors"].items()}
        original(folder, step, **given)

    monkeypatch.setattr(loop, "save_checkpoint", keeping)
    artifact = run(pico, tmp_path / "out", reward=(reward,), export="best", keep_checkpoints=1)
    assert artifact.report["exported_rollout"] == 2
    assert artifact.report["exported_reward"] == artifact.jsonl("metrics.jsonl")[1]["reward"]
    student = load_model(str(artifact.path))
    assert student.adapter is not None
    for name, value in student.model.named_parameters():
        assert torch.equal(value, kept[2][name]), name
    assert torch.equal(student.adapter.bias, kept[2]["bias"])
    assert torch.equal(student.ema, kept[2]["ema"])
    assert any(not torch.equal(kept[2][name], kept[4][name]) for name in kept[2])


def test_the_spacing_of_checkpoints_is_of_the_recipe_only_where_it_chooses_the_result():
    def method(**options: Any) -> dict[str, Any]:
        return TrainOptions(**options).method()

    assert method(checkpoint_every=3) == method(checkpoint_every=5)
    assert method(checkpoint_every=3, export="best") != method(checkpoint_every=5, export="best")
    with pytest.raises(ValueError, match="--checkpoint-every 0"):
        TrainOptions(export="best", checkpoint_every=0)
    with pytest.raises(ValueError, match="1 weights for 2 rewards"):
        TrainOptions(reward_weights=(1.0,))


def test_trackers_get_the_metrics_of_every_step(pico, tmp_path, monkeypatch):
    logged: list[Any] = []

    class Fake:
        def __init__(self, names, *, run_name, config, folder):
            logged.append((names, run_name, config["learning_rate"], folder))

        def __enter__(self):
            return self

        def __exit__(self, *error):
            logged.append("finished")

        def log(self, step, metrics):
            logged.append((step, metrics["reward"], metrics["seconds/rollout"] > 0))

    monkeypatch.setattr(train, "Trackers", Fake)
    monkeypatch.setattr(train, "require_tracker", lambda name: None)
    artifact = run(pico, tmp_path / "out", steps=2, tracker=("wandb",))
    rewards = [row["reward"] for row in artifact.jsonl("metrics.jsonl")]
    assert logged == [
        (("wandb",), "out", 1e-2, tmp_path / "tensorboard"),
        (1, rewards[0], True),
        (2, rewards[1], True),
        "finished",
    ]
    assert artifact.manifest.key == train.plan(inputs_of(pico), TrainOptions(**SMALL | {"steps": 2})).key


def test_a_missing_tracker_is_known_before_anything_is_loaded(pico, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(UsageError, match="pip install wandb"):
        train.plan(inputs_of(pico), TrainOptions(**SMALL, tracker=("wandb",)))


def broken(monkeypatch, *calls: int) -> None:
    """Make the loss NaN in the micro-batches of these numbers."""
    original, count = Updater._loss, iter(range(1, 1000))

    def loss(self, *arguments):
        value = original(self, *arguments)
        return value * float("nan") if next(count) in calls else value

    monkeypatch.setattr(Updater, "_loss", loss)


def test_a_broken_update_is_skipped_and_counted(pico, tmp_path, monkeypatch):
    broken(monkeypatch, 3)
    artifact = run(pico, tmp_path / "out")
    rows = artifact.jsonl("metrics.jsonl")
    assert [row["skipped_updates"] for row in rows] == [0, 1, 1, 1]
    assert all(row["grad_norm"] > 0 for row in rows)
    assert artifact.report["skipped_updates"] == 1
    weights = load_model(str(artifact.path)).model.parameters()
    assert all(bool(torch.isfinite(value).all()) for value in weights)


def test_broken_updates_in_a_row_stop_the_run_and_leave_its_checkpoint(pico, tmp_path, monkeypatch):
    broken(monkeypatch, *range(3, 3 + MAX_BROKEN_UPDATES))
    with pytest.raises(PaddError, match=f"{MAX_BROKEN_UPDATES} updates in a row"):
        run(pico, tmp_path / "out")
    assert Output(tmp_path / "out").unfinished() is not None
