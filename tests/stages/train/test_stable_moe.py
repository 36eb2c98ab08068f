"""StableMoE: the router by words learns what the student chooses; after its stage nothing else routes."""

import pytest
import torch

from padd_artifacts.errors import PaddError, UsageError
from padd_artifacts.work import find
from padd_artifacts.writer import Output
from padd_stages.export import stage as export
from padd_stages.export.options import ExportInputs, ExportOptions
from padd_stages.lib.models.loading import load_model
from padd_stages.train import loop
from padd_stages.train import stage as train
from padd_stages.train.options import TrainInputs, TrainOptions
from padd_stages.train.stable_moe import cross_entropy, stage_one

SMALL = {
    "steps": 4,
    "stable_moe": 0.5,
    "prompts_per_step": 4,
    "num_generations": 4,
    "max_completion_length": 6,
    "learning_rate": 1e-2,
    "lr_warmup_steps": 0,
    "lr_schedule": "constant",
    "checkpoint_every": 1,
    "truncated": "keep",
    "kd_weight": 0.0,
    "drift_lambda": 0.0,
    "eta": 0.0,
    "gamma": 0.0,
    "router_aux_loss_coef": 0.01,
}


@pytest.fixture(autouse=True)
def _length_rewards(length_grader: None) -> None: ...


def run(pico, out, *, resume=False, student=None, **options):
    inputs = TrainInputs(student=str(student or pico.student), split=pico.split)
    return train.run(inputs, TrainOptions(**(SMALL | options)), Output(out, resume=resume))


def test_the_loss_is_the_cross_entropy_to_the_top_k_weights():
    torch.manual_seed(0)
    scores = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    experts = torch.stack([torch.randperm(6)[:2] for _ in range(5)])
    weights = torch.rand(5, 2, dtype=torch.float64)
    weights /= weights.sum(1, keepdim=True)
    target = torch.zeros(5, 6, dtype=torch.float64)
    for row in range(5):
        for k in range(2):
            target[row, experts[row, k]] = weights[row, k]
    loss = cross_entropy(scores, experts, weights)
    assert float(loss.detach()) == pytest.approx(float(-(target * scores.detach().log_softmax(1)).sum()))
    [gradient] = torch.autograd.grad(loss, scores)
    torch.testing.assert_close(gradient, scores.detach().softmax(1) - target)


def test_the_first_stage_is_a_tenth():
    assert stage_one(TrainOptions(steps=200, stable_moe=0.1)) == 20
    assert stage_one(TrainOptions(steps=3, stable_moe=0.1)) == 1
    assert stage_one(TrainOptions(steps=3)) == 0


def test_the_router_by_words_learns_the_students_routes(pico, tmp_path):
    artifact = run(pico, tmp_path / "out", learning_rate=1e-6)  # of the student, which would run away
    rows = artifact.jsonl("metrics.jsonl")
    losses = [row["stable_moe/loss"] for row in rows if "stable_moe/loss" in row]
    assert len(losses) == 2
    assert losses[1] < losses[0]
    student = load_model(str(artifact.path))
    slots = student.adapter.top_k / student.adapter.num_experts
    assert rows[1]["stable_moe/agreement"] > slots + 0.5 * (1 - slots), "half of what chance leaves"
    assert [row.get("aux_loss", 0) > 0 for row in rows] == [True, True, False, False]
    assert all(0 <= row["stable_moe/unrouted"] < 0.5 for row in rows[2:])


def test_it_routes_after_its_stage_and_is_saved(pico, tmp_path):
    artifact = run(pico, tmp_path / "out")
    student = load_model(str(artifact.path))
    routing = artifact.jsonl("routing.jsonl")
    assert len(routing) == 4
    assert student.adapter.words is not None
    seen = (student.adapter.words.table[:, 0, 0] >= 0).nonzero()[:, 0]
    with student.adapter.trace() as trace, torch.no_grad():
        student.model(input_ids=seen[None, :9])
    assert torch.equal(trace.indices, student.adapter.words.table[seen[:9]].transpose(0, 1).long())
    go_on = run(pico, tmp_path / "more", student=artifact.path, stable_moe=0.0, steps=1)
    assert torch.equal(load_model(str(go_on.path)).adapter.words.table, student.adapter.words.table)
    with pytest.raises(PaddError, match="some already"):
        run(pico, tmp_path / "again", student=artifact.path)


def test_the_students_own_updates_are_not_touched_by_the_first_stage(pico, tmp_path):
    """With the first stage over all but the last rollout, the student is that of a run without it."""
    with_words = run(pico, tmp_path / "with", stable_moe=0.75)
    without = run(pico, tmp_path / "without", stable_moe=0.0)
    for a, b in zip(with_words.jsonl("metrics.jsonl")[:3], without.jsonl("metrics.jsonl")[:3], strict=True):
        assert {n: v for n, v in a.items() if not n.startswith("stable_moe/")} == b


@pytest.mark.parametrize("cut", [2, 3, 4])
def test_resuming_equals_running_through(pico, tmp_path, monkeypatch, cut):
    whole = run(pico, tmp_path / "whole")
    calls, original = {"n": 0}, loop.Collector.collect

    def failing(*arguments):
        calls["n"] += 1
        if calls["n"] == cut:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(loop.Collector, "collect", failing)
    with pytest.raises(KeyboardInterrupt):
        run(pico, tmp_path / "cut")
    monkeypatch.setattr(loop.Collector, "collect", original)
    assert find(tmp_path / "cut")
    assert run(pico, tmp_path / "cut", resume=True).manifest.digest == whole.manifest.digest


def test_what_does_not_go_together_is_refused(pico, tmp_path):
    for options in ({"router_replay": "rollout"}, {"eta": 0.1}, {"gamma": 0.1}):
        with pytest.raises(UsageError, match="--stable-moe fixes the routes by words and --"):
            run(pico, tmp_path / "out", **options)
    with pytest.raises(PaddError, match="dense"):
        run(pico, tmp_path / "out", student=pico.teacher, router_aux_loss_coef=0.0)
    artifact = run(pico, tmp_path / "student", steps=2)
    inputs = ExportInputs(student=str(artifact.path), split=pico.split)
    with pytest.raises(PaddError, match="routes by words"):
        export.run(inputs, ExportOptions(), Output(tmp_path / "stock"))
