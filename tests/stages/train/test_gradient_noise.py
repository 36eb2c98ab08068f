"""The cosine between the gradients of two halves of a rollout: as of whole gradients, and it changes nothing."""

import math
from types import SimpleNamespace

import pytest
import torch

from padd_artifacts.errors import UsageError
from padd_artifacts.writer import Output
from padd_stages.lib.models.loading import load_model
from padd_stages.lib.runtime.reporter import SILENT
from padd_stages.train import stage as train
from padd_stages.train import update
from padd_stages.train.gradient_noise import HalfGradients
from padd_stages.train.log import noise_warning
from padd_stages.train.options import TrainInputs, TrainOptions

ONE_PROCESS = SimpleNamespace(shards=False, sum=lambda tensor: tensor)
SMALL = {
    "steps": 3,
    "prompts_per_step": 4,
    "num_generations": 3,
    "max_completion_length": 6,
    "learning_rate": 1e-4,
    "lr_warmup_steps": 0,
    "checkpoint_every": 0,
    "truncated": "keep",
    "log_noise_every": 2,
}


def run(pico, out, reporter=SILENT, **options):
    inputs = TrainInputs(student=str(pico.student), teacher=str(pico.teacher), split=pico.split)
    return train.run(inputs, TrainOptions(**(SMALL | options)), Output(out), reporter)


@pytest.mark.parametrize("size", [30, 40_000])
def test_by_hand(size):
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.zeros(size)), torch.nn.Parameter(torch.zeros(7, 3))]
    common = [torch.randn_like(p) for p in parameters]
    halves = [[c + torch.randn_like(c) for c in common] for _ in range(2)]
    seen = HalfGradients(parameters, ONE_PROCESS)  # type: ignore[arg-type]
    for parameter, first in zip(parameters, halves[0], strict=True):
        parameter.grad = first.clone()
    seen.half()
    for parameter, second in zip(parameters, halves[1], strict=True):
        assert parameter.grad is not None
        parameter.grad += second
    a, b = (torch.cat([g.flatten() for g in half]) for half in halves)
    exact = float(torch.nn.functional.cosine_similarity(a, b, dim=0))
    assert seen.cosine() == pytest.approx(exact, abs=1e-5 if size < 100 else 0.04)
    assert 0.3 < exact < 0.7


def test_half_without_a_gradient_has_no_cosine():
    parameter = torch.nn.Parameter(torch.zeros(5))
    seen = HalfGradients([parameter], ONE_PROCESS)  # type: ignore[arg-type]
    seen.half()
    parameter.grad = torch.ones(5)
    assert math.isnan(seen.cosine())


def test_a_run_logs_the_cosine_of_whole_gradients(pico, tmp_path, monkeypatch, length_grader):
    exact = []

    class Whole(HalfGradients):
        def half(self):
            super().half()
            self.kept = self.everything()

        def cosine(self):
            second = self.everything() - self.kept
            exact.append(float(torch.nn.functional.cosine_similarity(self.kept, second, dim=0)))
            return super().cosine()

        def everything(self):
            return torch.cat(
                [torch.zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in self._parameters]
            ).double()

    monkeypatch.setattr(update, "HalfGradients", Whole)
    rows = run(pico, tmp_path / "out").jsonl("metrics.jsonl")
    found = [row.get("noise/cosine") for row in rows]
    assert found == [pytest.approx(exact[0], abs=1e-4), None, pytest.approx(exact[1], abs=1e-4)]
    assert 0 < abs(exact[0]) < 1


def test_measuring_changes_nothing_but_the_order_of_sums(pico, tmp_path, length_grader):
    measured, plain = run(pico, tmp_path / "with"), run(pico, tmp_path / "without", log_noise_every=0)
    before = load_model(str(plain.path)).model.state_dict()
    for name, tensor in load_model(str(measured.path)).model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], atol=2e-5, rtol=0)


def test_updates_that_are_noise_are_warned_about():
    assert noise_warning([0.01, 0.02]) is None, "too few"
    assert noise_warning([0.01, 0.3, 0.3, 0.02]) is None
    assert noise_warning([math.nan, 0.01, 0.01]) is None
    text = noise_warning([0.9, 0.01, 0.05, 0.03])
    assert text is not None
    assert "cosine of 0.03" in text
    assert "--prompts-per-step" in text


def test_prompts_that_cannot_be_halved_are_refused(pico, tmp_path):
    with pytest.raises(UsageError, match="--prompts-per-step 3"):
        run(pico, tmp_path / "out", prompts_per_step=3)
