import math

import pytest
import torch

from padd_stages.lib.objectives.drift import (
    drift_log_weight,
    drift_metrics,
    router_drift,
    router_l1,
    router_shift,
    rspo_log_weight,
    rspo_metrics,
    stage3_state,
)

L, T, N, K = 3, 5, 7, 2


def routers(seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(L, T, N, generator=g, dtype=dtype)
    moved = logits + 0.3 * torch.randn(L, T, N, generator=g, dtype=dtype)
    return moved.softmax(-1), logits.softmax(-1)


def test_drift_matches_a_loop():
    new, old = routers()
    gamma = router_drift(new, old)
    for t in range(T):
        layers = [math.sqrt(sum(float(new[m, t, j] - old[m, t, j]) ** 2 for j in range(N))) for m in range(L)]
        assert float(gamma[t]) == pytest.approx(sum(layers) / L, abs=1e-12)


def test_drift_by_hand():
    new, old = torch.tensor([[[1.0, 0.0]], [[0.5, 0.5]]]), torch.tensor([[[0.0, 1.0]], [[0.5, 0.5]]])
    assert float(router_drift(new, old)) == pytest.approx(math.sqrt(2) / 2)


def test_router_l1_matches_a_loop():
    new, old = routers()
    shift = router_l1(new, old)
    for t in range(T):
        layers = [sum(abs(float(new[m, t, j] - old[m, t, j])) for j in range(N)) for m in range(L)]
        assert float(shift[t]) == pytest.approx(sum(layers) / L, abs=1e-12)


def test_router_l1_is_0_without_movement_and_2_where_all_moved():
    one_hot = torch.eye(4)[None]  # (1, T, N)
    assert router_l1(one_hot, one_hot).tolist() == [0.0] * 4
    assert router_l1(one_hot.roll(1, dims=-1), one_hot).tolist() == [2.0] * 4


def test_drift_in_fp32_is_within_1e_6_of_fp64_where_it_is_small():
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 40, 128, generator=g, dtype=torch.float64)
    new, old = (logits + 0.01 * torch.randn(logits.shape, generator=g)).softmax(-1), logits.softmax(-1)
    exact = router_drift(new, old)
    assert 1e-4 < float(exact.mean()) < 5e-3
    assert float((router_drift(new.float(), old.float()).double() - exact).abs().max()) < 1e-6


def test_drift_gradient_is_finite_where_nothing_moved():
    probs = routers()[0].requires_grad_()
    router_drift(probs, probs.detach()).sum().backward()
    assert probs.grad is not None
    assert bool(probs.grad.isfinite().all())


def test_log_weight():
    gamma = torch.tensor([[0.1, 0.2, 0.0], [0.3, 0.4, 0.5], [0.6, 0.7, 0.8]], dtype=torch.float64)
    advantages = torch.tensor([-1.0, 2.0, 0.0])
    log_weight = drift_log_weight(gamma, advantages, lam=0.5, scale=0.2)
    expected = torch.tensor([[-0.25, -0.5, 0.0], [0.0] * 3, [0.0] * 3], dtype=torch.float64)
    torch.testing.assert_close(log_weight, expected, atol=1e-12, rtol=0)
    by_tensor = drift_log_weight(gamma, advantages, lam=0.5, scale=torch.tensor(0.2))
    torch.testing.assert_close(by_tensor, expected, atol=1e-7, rtol=0)


def test_weight_is_one_before_anything_moved():
    log_weight = drift_log_weight(torch.zeros(2, 3), torch.tensor([-1.0, 1.0]), lam=0.3, scale=0.0)
    assert torch.equal(log_weight, torch.zeros(2, 3))


def test_no_gradient_through_gamma_unless_asked():
    gamma = torch.rand(2, 3, requires_grad=True)
    advantages = torch.tensor([-1.0, 1.0])
    assert not drift_log_weight(gamma, advantages, lam=0.3).requires_grad
    drift_log_weight(gamma, advantages, lam=0.3, keep_grad=True).sum().backward()
    torch.testing.assert_close(gamma.grad, torch.tensor([[-0.3] * 3, [0.0] * 3]))


def test_rspo_matches_a_loop():
    new, old = routers(1)
    indices = old.topk(K, dim=-1).indices
    log_weight = rspo_log_weight(router_shift(new.requires_grad_(), old, indices), 0.8)
    assert not log_weight.requires_grad
    floored = 0
    new = new.detach()
    for t in range(T):
        layers = []
        for m in range(L):
            active = [int(j) for j in indices[m, t]]
            layers.append(sum(abs(math.log(float(new[m, t, j] / old[m, t, j]))) for j in active) / K)
        g = math.exp(-sum(layers) / L)
        floored += g < 0.8
        assert math.exp(float(log_weight[t])) == pytest.approx(max(g, 0.8), abs=1e-9)
    assert 0 < floored < T


def test_rspo_survives_a_probability_of_zero():
    new, old = torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[0.5, 0.5]]])
    log_weight = rspo_log_weight(router_shift(new, old, torch.tensor([[[0]]])), 0.8)
    assert float(log_weight) == pytest.approx(math.log(0.8))


@pytest.mark.parametrize(
    ("weight", "state"),
    [
        (1.0, "inactive"),
        (0.981, "inactive"),
        (0.98, "active"),
        (0.5, "active"),
        (0.49, "saturated"),
        (float("nan"), "inactive"),
    ],
)
def test_state(weight, state):
    assert stage3_state(weight) == state


def test_metrics_cover_only_negative_tokens():
    gamma = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])
    advantages = torch.tensor([-1.0, -1.0, 1.0, 1.0, 0.0])
    metrics = drift_metrics(torch.where(advantages < 0, -gamma, 0.0), gamma, advantages)
    assert metrics["drift/gamma_all_mean"] == pytest.approx(0.3)
    assert metrics["drift/gamma_mean"] == pytest.approx(0.15)
    assert metrics["drift/gamma_p95"] == pytest.approx(0.2)
    assert metrics["drift/weight_mean"] == pytest.approx((math.exp(-0.1) + math.exp(-0.2)) / 2)
    assert metrics["drift/weight_p05"] == pytest.approx(math.exp(-0.2))
    assert metrics["drift/weight_p95"] == pytest.approx(math.exp(-0.1))


def test_metrics_without_a_negative_token():
    metrics = drift_metrics(torch.zeros(2), torch.ones(2), torch.ones(2))
    assert metrics["drift/weight_mean"] == metrics["drift/weight_p05"] == 1.0
    assert metrics["drift/gamma_mean"] == 0.0


def test_rspo_metrics_count_the_floor():
    weights = torch.tensor([0.8, 0.8, 0.9, 1.0], dtype=torch.float64)
    metrics = rspo_metrics(rspo_log_weight(-weights.log(), 0.8), 0.8)
    assert metrics["rspo/floor_fraction"] == 0.5
    assert metrics["rspo/weight_mean"] == pytest.approx(0.875)
    assert metrics["rspo/weight_p50"] == pytest.approx(0.9)


def test_refusals():
    new, old = routers()
    with pytest.raises(ValueError, match=r"\(3, 5, 7\)"):
        router_drift(new, old[:2])
    with pytest.raises(ValueError, match=r"\(3, 4, 2\)"):
        router_shift(new, old, torch.zeros(L, T - 1, K, dtype=torch.long))
    with pytest.raises(ValueError, match=r"\(5,\)"):
        drift_log_weight(torch.zeros(4, 5), torch.zeros(5), lam=1.0)
