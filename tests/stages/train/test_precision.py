"""bf16: trained weights move as in float32 at the paper's learning rate, and routing shifts by the weights' moves."""

from pathlib import Path

import pytest

from padd_artifacts.artifact import open_artifact
from padd_artifacts.writer import Output
from padd_stages.train import loop
from padd_stages.train import stage as train
from padd_stages.train.log import sampler_warning
from padd_stages.train.options import TrainInputs, TrainOptions

PAPER_RATE = {"learning_rate": 1e-6, "lr_schedule": "constant", "lr_warmup_steps": 0}
SMALL = {
    "steps": 10,
    "prompts_per_step": 2,
    "num_generations": 4,
    "num_iterations": 2,
    "max_completion_length": 6,
    "checkpoint_every": 0,
    "device": "cpu",
    "workers": 1,
}


@pytest.fixture
def moved(pico_bf16, tmp_path: Path, length_grader: None):
    """Of each rollout's last update: the share of weights that it changed, and by how much."""

    def run(dtype: str, **more: str) -> list[tuple[float, float]]:
        inputs = TrainInputs(
            student=str(pico_bf16.student), teacher=str(pico_bf16.teacher), split=pico_bf16.split
        )
        options = TrainOptions(**(SMALL | PAPER_RATE | more), dtype=dtype)
        rows = train.run(inputs, options, Output(tmp_path / dtype)).jsonl("metrics.jsonl")
        return [(row["update/moved"], row["update/relative"]) for row in rows]

    return run


@pytest.mark.parametrize(("optimizer", "tolerance"), [("adamw", 0.05), ("adamw-8bit", 0.1)])
def test_twenty_updates_in_bf16_move_what_float32_moves(moved, optimizer, tolerance):
    """A bf16 weight of 0.02 moves by 8e-5 or not at all; an update is 1e-6."""
    ours, exact = moved("bfloat16", optimizer=optimizer), moved("float32")
    for (share, relative), (share_32, relative_32) in zip(ours, exact, strict=True):
        assert share > 0.95 * share_32 > 0.9
        assert relative == pytest.approx(relative_32, rel=tolerance)


def test_with_8_bit_moments_resuming_from_a_checkpoint_equals_running_through(
    pico_bf16, tmp_path, length_grader, monkeypatch
):
    inputs = TrainInputs(
        student=str(pico_bf16.student), teacher=str(pico_bf16.teacher), split=pico_bf16.split
    )
    options = TrainOptions(**(SMALL | {"steps": 3, "checkpoint_every": 1}), optimizer="adamw-8bit")
    whole = train.run(inputs, options, Output(tmp_path / "whole"))
    collect, rollouts = loop.Collector.collect, iter(range(99))

    def failing(*arguments):
        if next(rollouts) == 2:
            raise KeyboardInterrupt
        return collect(*arguments)

    monkeypatch.setattr(loop.Collector, "collect", failing)
    with pytest.raises(KeyboardInterrupt):
        train.run(inputs, options, Output(tmp_path / "cut"))
    resumed = train.run(inputs, options, Output(tmp_path / "cut", resume=True))
    assert resumed.manifest.digest == whole.manifest.digest
    with_fp32 = train.run(
        inputs, options.model_copy(update={"optimizer": "adamw"}), Output(tmp_path / "fp32")
    )
    assert with_fp32.manifest.digest != whole.manifest.digest


def test_the_result_is_in_the_types_that_it_came_in(pico_bf16, tmp_path, moved):
    moved("bfloat16")
    config = open_artifact(tmp_path / "bfloat16").json("config.json")
    assert config["dtype"] == "bfloat16"


def test_a_sampler_that_is_another_policy_is_warned_of():
    name = "sampling/sampling_logp_difference"
    assert sampler_warning({f"{name}/mean": 0.05, f"{name}/max": 0.3}) is None
    text = sampler_warning({f"{name}/mean": 0.06, f"{name}/max": 0.3})
    assert text is not None
    assert "differ by 0.060 nats a token" in text
