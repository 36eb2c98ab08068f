"""Distillation as an advantage: each token's own, by the teacher's log-probability beside the old policy's."""

from dataclasses import replace

import pytest
import torch

from padd_artifacts.errors import UsageError
from padd_artifacts.writer import Output
from padd_stages.lib.models.teacher import Teacher, teacher_input
from padd_stages.train import collecting as collect
from padd_stages.train import loop
from padd_stages.train import stage as train
from padd_stages.train.options import TrainInputs, TrainOptions

SMALL = {
    "steps": 1,
    "prompts_per_step": 3,
    "num_generations": 4,
    "max_completion_length": 6,
    "learning_rate": 1e-3,
    "checkpoint_every": 0,
    "truncated": "keep",
    "drift_lambda": 0.0,
    "phi": "fixed",
    "kd_as": "advantage",
    "temperature": 1.3,
}


@pytest.fixture
def rollout(pico, tmp_path, monkeypatch, length_grader):
    """`rollout(**options)`: the passes of a rollout, the rollout, the models, and the run's metrics."""
    sampled = collect.respond

    def untruncated(*arguments, **keywords):
        return [replace(response, truncated=False) for response in sampled(*arguments, **keywords)]

    monkeypatch.setattr(collect, "respond", untruncated)

    def run(name: str = "out", **options):
        seen = []
        original = loop.run_old_policy

        def watched(policy, student, teacher, reference, made, *others):
            passes = original(policy, student, teacher, reference, made, *others)
            seen.append(([replace(old) for old in passes], made, student, teacher))
            return passes

        monkeypatch.setattr(loop, "run_old_policy", watched)
        inputs = TrainInputs(student=str(pico.student), teacher=str(pico.teacher), split=pico.split)
        artifact = train.run(inputs, TrainOptions(**(SMALL | options)), Output(tmp_path / name))
        monkeypatch.setattr(loop, "run_old_policy", original)
        return *seen[0], artifact.jsonl("metrics.jsonl")[0]

    return run


def by_hand(teacher: Teacher, sequence, prompt, temperature: float) -> list[float]:
    """The teacher's log-probabilities of a response's tokens, from its own forward."""
    own, comparable, _ = teacher_input(sequence, prompt, teacher.vocabulary, 10**6)
    assert all(comparable)
    with torch.no_grad():
        logits = teacher.language_model.model(torch.tensor([own.prompt_ids + own.response_ids])).logits[0]
    logprobs = (logits / temperature).log_softmax(-1)
    start = len(own.prompt_ids) - 1
    return [float(logprobs[start + i, word]) for i, word in enumerate(own.response_ids)]


@pytest.mark.parametrize("clamp", [None, 0.05])
def test_a_tokens_advantage_falls_by_policy_over_teacher(rollout, clamp):
    passes, made, _, teacher, metrics = rollout(kd_weight=0.7, kd_clamp=clamp)
    estimates = []
    for old in passes:
        likelier = []
        for row, member in enumerate(old.members):
            known = by_hand(teacher, made.sequences[member], made.prompts[member].teacher_ids, 1.3)
            here = old.batch.rows == row
            estimate = old.logprobs[here] - torch.tensor(known)
            estimates += estimate.tolist()
            counted = estimate if clamp is None else estimate.clamp(-clamp, clamp)
            torch.testing.assert_close(
                old.token_advantages[here], old.advantages[row] - 0.7 * counted, atol=1e-5, rtol=1e-5
            )
            likelier += ((estimate < 0) == (old.token_advantages[here] > old.advantages[row])).tolist()
        assert all(likelier), "what the teacher finds likelier is encouraged"
    assert 0 < sum(value < 0 for value in estimates) < len(estimates)
    assert metrics["kd/kl"] == pytest.approx(sum(estimates) / len(estimates), abs=1e-5)
    assert "kd/loss" not in metrics


def test_a_teacher_that_agrees_changes_nothing(rollout, monkeypatch):
    passes, *_ = rollout()
    kept = [old.logprobs for old in passes]
    monkeypatch.setattr(Teacher, "logprobs", lambda *_: kept.pop(0))
    for old in rollout("again")[0]:
        assert torch.equal(old.token_advantages, old.advantages[old.batch.rows])


def test_responses_that_kd_on_leaves_out_keep_their_own(rollout):
    passes, made, *_ = rollout(kd_on="correct")
    kinds = set()
    for old in passes:
        own = old.advantages[old.batch.rows]
        correct = made.correct[old.members][old.batch.rows] > 0.5
        assert torch.equal(old.token_advantages[~correct], own[~correct])
        assert (old.token_advantages[correct] != own[correct]).all()
        kinds |= set(correct.tolist())
    assert kinds == {True, False}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"phi": "inverse"}, "--phi fixed"),
        ({"kl": "forward"}, "--kl reverse"),
        ({"loss_type": "gspo"}, "--loss-type dapo"),
        ({"kd_weight": 0.0}, "--kd-weight above 0"),
    ],
)
def test_what_has_no_place_is_refused(rollout, options, said):
    with pytest.raises(UsageError, match=rf"--kd-as advantage with .*; take {said}"):
        rollout(**options)
