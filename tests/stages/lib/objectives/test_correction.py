"""Weights against a sampler that is another policy: each kind's formula, and what it does to each loss."""

import math

import pytest
import torch

from padd_stages.lib.objectives.correction import correction_metrics, correction_weights
from padd_stages.lib.objectives.policy import policy_loss

SAMPLER = torch.zeros(2, 3)
RATIOS = torch.tensor([[1.5, 8.0, 0.25], [0.9, 1.1, 9.0]])
MASK = torch.tensor([[1, 1, 1], [1, 1, 0]])


def weights(kind):
    return correction_weights(RATIOS.log(), SAMPLER, MASK, kind)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("none", [[1, 1, 1], [1, 1, 0]]),
        ("tis", [[1.5, 2, 0.25], [0.9, 1.1, 0]]),
        ("icepop", [[1.5, 0, 0], [0.9, 1.1, 0]]),
        ("mis", [[3.0, 3.0, 3.0], [0.99, 0.99, 0]]),
    ],
)
def test_each_kind_is_its_formula(kind, expected):
    assert torch.allclose(weights(kind), torch.tensor(expected, dtype=torch.float32), atol=1e-5)


def test_a_response_beyond_the_cap_is_left_out_whole():
    found = correction_weights(RATIOS.log() + 0.1, SAMPLER, MASK, "mis")
    assert found[0].tolist() == [0, 0, 0]
    assert float(found[1, 0]) == pytest.approx(0.99 * math.exp(0.2), rel=1e-5)


def test_no_gradient_flows_through_a_weight():
    old = RATIOS.log().requires_grad_(True)
    assert not correction_weights(old, SAMPLER, MASK, "tis").requires_grad


@pytest.mark.parametrize("kind", ["dapo", "grpo", "dr_grpo"])
def test_a_weight_multiplies_a_tokens_term(kind):
    """At ratio 1 the gradient of a token's term is its advantage, times the weight."""
    logprobs = torch.full((2, 3), -1.0, requires_grad=True)
    advantages, weight = torch.tensor([2.0, -1.0]), weights("tis")
    loss, _ = policy_loss(
        logprobs,
        logprobs.detach(),
        advantages,
        MASK,
        kind=kind,
        eps_low=0.2,
        eps_high=0.2,
        normalizer=1.0,
        token_weight=weight,
    )
    loss.backward()
    share = 1 / MASK.sum(1, keepdim=True) if kind == "grpo" else 1.0
    assert torch.allclose(logprobs.grad, -advantages[:, None] * weight * share)


@pytest.mark.parametrize("kind", ["gspo", "gmpo"])
def test_one_term_a_response_takes_its_weight_once(kind):
    def gradient(weight):
        logprobs = torch.full((2, 3), -1.0, requires_grad=True)
        loss, _ = policy_loss(
            logprobs,
            logprobs.detach(),
            torch.tensor([2.0, -1.0]),
            MASK,
            kind=kind,
            eps_low=0.4,
            eps_high=0.4,
            normalizer=1.0,
            token_weight=weight,
        )
        loss.backward()
        return logprobs.grad

    assert torch.allclose(gradient(weights("mis")), gradient(None) * torch.tensor([[3.0], [0.99]]), atol=1e-5)


def test_metrics_count_what_is_capped_or_masked():
    ratio = torch.cat([torch.ones(98), torch.tensor([4.0, 0.1])])
    found = correction_metrics(ratio, "tis")
    name = "sampling/importance_sampling_ratio"
    assert found[f"{name}/mean"] == pytest.approx(1.021)
    assert (found[f"{name}/max"], found[f"{name}/p99"]) == (4.0, 1.0)
    assert found["sampling/corrected"] == pytest.approx(0.01)
    assert correction_metrics(ratio, "icepop")["sampling/corrected"] == pytest.approx(0.01)
    assert correction_metrics(torch.tensor([0.1, 2.0]), "icepop")["sampling/corrected"] == 0.5
