"""Short training runs of the pico pair whose responses are graded by their length: random weights solve nothing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from padd_artifacts.artifact import Artifact
from padd_artifacts.writer import Output
from padd_cli.flags.config import load_method
from padd_stages.lib.models.loading import load_model
from padd_stages.train import collecting as collect
from padd_stages.train import stage as train
from padd_stages.train.options import TrainInputs, TrainOptions

SMALL = {
    "steps": 2,
    "prompts_per_step": 2,
    "num_generations": 4,
    "max_completion_length": 6,
    "learning_rate": 3e-3,
    "lr_warmup_steps": 0,
    "lr_schedule": "constant",
    "checkpoint_every": 0,
}
Trained = Callable[..., Artifact]


@pytest.fixture
def trained(pico: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length_grader: None) -> Trained:
    """`trained(name, preset="grpo", **options)`: one run, its options on top of a method preset's."""
    sample = collect.respond

    def untruncated(*arguments: Any, **keywords: Any) -> list[collect.Response]:
        return [replace(r, truncated=False) for r in sample(*arguments, **keywords)]

    monkeypatch.setattr(collect, "respond", untruncated)

    def run(name: str, preset: str = "grpo", **options: Any) -> Artifact:
        method = load_method(preset, "train", TrainOptions.model_fields)
        teacher = str(pico.teacher) if (method | options).get("kd_weight", 1.0) > 0 else None
        inputs = TrainInputs(student=str(pico.student), teacher=teacher, split=pico.split)
        return train.run(inputs, TrainOptions(**(SMALL | method | options)), Output(tmp_path / name))

    return run


@pytest.fixture
def weights() -> Callable[[Artifact], dict[str, torch.Tensor]]:
    """A student's weights with its router bias."""

    def read(artifact: Artifact) -> dict[str, torch.Tensor]:
        student = load_model(str(artifact.path))
        assert student.adapter is not None
        return student.model.state_dict() | {"router bias": student.adapter.bias}

    return read
