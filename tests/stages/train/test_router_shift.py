"""Router-shift as train logs it: after the updates and Stage IV's bias, against whole traces of every token."""

import pytest
import torch

from padd_artifacts.writer import Output
from padd_stages.train import loop
from padd_stages.train import stage as train
from padd_stages.train.options import TrainInputs, TrainOptions
from padd_stages.train.router_shift import measure_shift

STEPS = 2


@pytest.fixture
def trained(pico, tmp_path, monkeypatch, length_grader):
    """A run's artifact, and for each rollout what whole traces give: (M,) over its response tokens."""

    def run(**options):
        slow = []

        def spy(policy, student, passes, processes):
            for old in passes:
                with student.adapter.trace() as trace, torch.no_grad():
                    student.model(input_ids=old.batch.input_ids, attention_mask=old.batch.attention_mask)
                probs = trace.probs[:, old.batch.select.flatten()]
                assert probs.shape == old.routing.probs.shape
                slow.append((probs - old.routing.probs).abs().sum(-1).mean(0))
            return measure_shift(policy, student, passes, processes)

        monkeypatch.setattr(loop, "measure_shift", spy)
        small = {"prompts_per_step": 2, "num_generations": 4, "max_completion_length": 6, "workers": 1}
        inputs = TrainInputs(student=str(pico.student), teacher=None, split=pico.split)
        method = {"kd_weight": 0.0, "lr_warmup_steps": 0, "log_shift_every": STEPS, "learning_rate": 3e-3}
        artifact = train.run(
            inputs, TrainOptions(**(small | method | {"steps": STEPS} | options)), Output(tmp_path / "out")
        )
        return artifact, torch.cat(slow).sort().values if slow else None

    return run


@pytest.mark.parametrize("micro_batch_tokens", [16_384, 70])
def test_it_is_what_whole_traces_give(trained, micro_batch_tokens):
    artifact, slow = trained(eta=0.1, micro_batch_tokens=micro_batch_tokens)
    first, second = artifact.jsonl("routing.jsonl")
    assert "router_shift" not in first
    shift = second["router_shift"]
    assert shift["tokens"] == len(slow)
    assert shift["mean"] == pytest.approx(float(slow.mean()), rel=1e-5)
    assert len(shift["quantiles"]) == 101
    assert (shift["quantiles"][0], shift["quantiles"][100]) == pytest.approx(
        (float(slow[0]), float(slow[-1])), abs=2e-6
    )
    assert shift["quantiles"] == sorted(shift["quantiles"])
    median = artifact.jsonl("metrics.jsonl")[1]["router_shift/p50"]
    assert median == pytest.approx(float(slow.median()), rel=0.1)


STILL = {"learning_rate": 1e-30, "steps": 1, "log_shift_every": 1, "drift_lambda": 0.0}


def test_without_a_learning_rate_nothing_shifts(trained):
    unmoved, _ = trained(**STILL, eta=0.0, gamma=0.0)
    assert unmoved.jsonl("routing.jsonl")[0]["router_shift"]["mean"] == pytest.approx(0.0, abs=1e-6)


def test_the_bias_alone_shifts_it(trained):
    biased, slow = trained(**STILL, eta=0.5, gamma=0.0)
    assert biased.jsonl("routing.jsonl")[0]["router_shift"]["mean"] == pytest.approx(
        float(slow.mean()), rel=1e-5
    )
    assert float(slow.mean()) > 0.01


def test_no_forward_is_spent_on_it_when_it_is_off(trained):
    artifact, slow = trained(log_shift_every=0)
    assert slow is None
    assert all("router_shift" not in row for row in artifact.jsonl("routing.jsonl"))
