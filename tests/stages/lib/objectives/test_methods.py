"""PR-GRPO and RSPO from router probabilities to gradient, against docs/METHOD.md's formulas token by token, in fp64."""

import math

import pytest
import torch

from padd_stages.lib.objectives.drift import drift_log_weight, router_drift, router_shift, rspo_log_weight
from padd_stages.lib.objectives.policy import policy_loss

B, T, L, N, K = 4, 5, 3, 7, 2
ADVANTAGES = torch.tensor([1.3, -0.7, -1.9, 0.4], dtype=torch.float64)
MASK = torch.arange(T)[None] < torch.tensor([5, 3, 4, 1])[:, None]


def real(value):
    return torch.tensor(value, dtype=torch.float64)


def batch(seed=0, moved=0.3):
    g = torch.Generator().manual_seed(seed)
    new = (-2 + 0.3 * torch.randn(B, T, generator=g, dtype=torch.float64)).requires_grad_()
    old = -2 + 0.3 * torch.randn(B, T, generator=g, dtype=torch.float64)
    logits = torch.randn(L, B * T, N, generator=g, dtype=torch.float64)
    shifted = (logits + moved * torch.randn(L, B * T, N, generator=g, dtype=torch.float64)).requires_grad_()
    return new, old, shifted, logits.softmax(-1)


def assert_equal(loss, expected, wanted):
    torch.testing.assert_close(loss, expected, atol=1e-12, rtol=0)
    grads = torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True)
    for grad, right in zip(grads, torch.autograd.grad(expected, wanted, allow_unused=True)):
        assert (grad is None) == (right is None)
        if right is not None and grad is not None:
            torch.testing.assert_close(grad, right, atol=1e-12, rtol=0)
            assert float(right.abs().max()) > 1e-3


@pytest.mark.parametrize("keep_grad", [False, True])
@pytest.mark.parametrize("scale", [1.0, 0.05])
def test_pr_grpo(keep_grad, scale):
    new, old, shifted, old_probs = batch()
    gamma = router_drift(shifted.softmax(-1), old_probs)
    loss, _ = policy_loss(
        new, old, ADVANTAGES, MASK, kind="dapo", eps_low=0.2, eps_high=0.2, normalizer=13.0,
        log_weight=drift_log_weight(gamma.view(B, T), ADVANTAGES, 0.1, scale, keep_grad=keep_grad),
    )  # fmt: skip
    probs, total = shifted.softmax(-1), torch.zeros((), dtype=torch.float64)
    for i in range(B):
        for t in range(int(MASK[i].sum())):
            layers = [(((probs[m, i * T + t] - old_probs[m, i * T + t]) ** 2).sum()) ** 0.5 for m in range(L)]
            drift = sum(layers) / L / scale
            drift = drift if keep_grad else drift.detach()
            rho = torch.exp(new[i, t] - old[i, t]) * torch.exp(-0.1 * drift * (ADVANTAGES[i] < 0))
            clipped = min(max(rho, real(0.8)), real(1.2))
            total = total + min(rho * ADVANTAGES[i], clipped * ADVANTAGES[i])
    assert_equal(loss, -total / 13.0, (new, shifted))


@pytest.mark.parametrize("after", [False, True])
def test_rspo(after):
    new, old, shifted, old_probs = batch(1)
    indices = old_probs.topk(K, dim=-1).indices
    shift = router_shift(shifted.softmax(-1), old_probs, indices)
    loss, _ = policy_loss(
        new, old, ADVANTAGES, MASK, kind="gmpo", eps_low=0.2, eps_high=0.2, normalizer=4.0,
        log_weight=rspo_log_weight(shift, 0.8).view(B, T), weight_after_clip=after,
    )  # fmt: skip
    probs, total, floored = shifted.detach().softmax(-1), torch.zeros((), dtype=torch.float64), []
    for i in range(B):
        logs = []
        for t in range(int(MASK[i].sum())):
            d = 0.0
            for m in range(L):
                for j in indices[m, i * T + t].tolist():
                    d += abs(math.log(probs[m, i * T + t, j] / old_probs[m, i * T + t, j])) / K / L
            g = max(math.exp(-d), 0.8)
            floored.append(g == 0.8)
            ratio = new[i, t] - old[i, t]
            c = ratio if after else ratio + math.log(g)
            c = min(c, real(0.2)) if ADVANTAGES[i] > 0 else max(c, real(-0.2))
            logs.append(c + math.log(g) if after else c)
        total = total + ADVANTAGES[i] * torch.exp(sum(logs) / len(logs))
    assert 0 < sum(floored) < len(floored)
    assert_equal(loss, -total / 4.0, (new, shifted))


def test_stage_3_leaves_the_other_tokens_alone():
    """The drift weight changes neither term nor gradient of a token with A >= 0."""
    new, old, shifted, old_probs = batch(2)
    gamma = router_drift(shifted.softmax(-1), old_probs).view(B, T)
    grads = []
    for weight in (None, drift_log_weight(gamma, ADVANTAGES, 0.5)):
        loss, _ = policy_loss(
            new, old, ADVANTAGES, MASK, kind="dapo", eps_low=0.2, eps_high=0.2, normalizer=13.0,
            log_weight=weight,
        )  # fmt: skip
        grads.append(torch.autograd.grad(loss, new)[0])
    positive = ADVANTAGES > 0
    assert torch.equal(grads[0][positive], grads[1][positive])
    assert not torch.equal(grads[0][~positive], grads[1][~positive])
