import pytest
import torch

from padd_stages.lib.compat.transformers import balancing_loss
from padd_stages.lib.objectives.balance import advantage_sums, balance_loss, routed_slots, update_bias

L, T, N, K = 3, 11, 5, 2


def routed(seed=0):
    g = torch.Generator().manual_seed(seed)
    indices = torch.rand(L, T, N, generator=g).topk(K, dim=-1).indices
    indices[0] = torch.where(
        indices[0] == 4, (indices[0].flip(-1) + 1) % 4, indices[0]
    )  # layer 0 leaves expert 4 out
    advantages, mask = torch.randn(T, generator=g), (torch.arange(T) % 4 != 1).float()
    return indices, advantages, mask


def slow_counts(indices, advantages, mask):
    counts, sums = torch.zeros(L, N, dtype=torch.float64), torch.zeros(L, N, dtype=torch.float64)
    for m in range(L):
        for t in range(T):
            for k in range(K):
                if mask[t]:
                    counts[m, int(indices[m, t, k])] += 1
                    sums[m, int(indices[m, t, k])] += float(advantages[t])
    return counts, sums


def test_counts_match_a_loop():
    indices, advantages, mask = routed()
    counts, sums = slow_counts(indices, advantages, mask)
    assert float(counts[0, 4]) == 0
    torch.testing.assert_close(routed_slots(indices, mask, N), counts, atol=0, rtol=0)
    torch.testing.assert_close(advantage_sums(indices, advantages, mask, N), sums, atol=1e-12, rtol=0)
    assert float(counts.sum()) == L * K * float(mask.sum())


def test_counts_add_up_over_micro_batches():
    indices, advantages, mask = routed()
    parts = [slice(0, 4), slice(4, T)]
    counts = sum(routed_slots(indices[:, p], mask[p], N) for p in parts)
    sums = sum(advantage_sums(indices[:, p], advantages[p], mask[p], N) for p in parts)
    torch.testing.assert_close(counts, routed_slots(indices, mask, N), atol=0, rtol=0)
    torch.testing.assert_close(sums, advantage_sums(indices, advantages, mask, N), atol=1e-12, rtol=0)


@pytest.mark.parametrize("sign", ["minus", "plus"])
def test_update_matches_a_loop(sign):
    indices, advantages, mask = routed()
    counts, sums = slow_counts(indices, advantages, mask)
    g = torch.Generator().manual_seed(1)
    bias, ema = 0.1 * torch.randn(L, N, generator=g).double(), torch.randn(L, N, generator=g).double()
    new_bias, new_ema, _ = update_bias(
        bias, ema, counts, sums, eta=0.03, gamma=0.02, ema_rate=0.1, b_max=10.0, sign=sign
    )
    for m in range(L):
        row = []
        for j in range(N):
            seen = counts[m, j] > 0
            value = (
                0.1 * float(sums[m, j] / counts[m, j]) + 0.9 * float(ema[m, j]) if seen else float(ema[m, j])
            )
            assert float(new_ema[m, j]) == pytest.approx(value, abs=1e-9)
            share = float(counts[m, j] / counts[m].sum())
            step = 0.03 * (N * share - 1) * (1 if sign == "plus" else -1)
            row.append(float(bias[m, j]) + step + 0.02 * value)
        for j in range(N):
            assert float(new_bias[m, j]) == pytest.approx(row[j] - sum(row) / N, abs=1e-9)


def test_by_hand():
    counts, sums = torch.tensor([[3.0, 1.0]]), torch.tensor([[-3.0, 2.0]])  # shares 3/4, 1/4; means -1, 2
    zero = torch.zeros(1, 2, dtype=torch.float64)
    bias, ema, metrics = update_bias(zero, zero, counts, sums, eta=0.1, gamma=0.1, ema_rate=0.5, b_max=1.0)
    torch.testing.assert_close(ema, torch.tensor([[-0.5, 1.0]], dtype=torch.float64))
    # before centring -0.05 - 0.05 and 0.05 + 0.1; their mean is 0.025
    torch.testing.assert_close(bias, torch.tensor([[-0.125, 0.125]], dtype=torch.float64))
    assert metrics["bias/spread"] == pytest.approx(0.25)


def test_an_unseen_expert_keeps_its_ema_and_an_empty_layer_its_load_term():
    ema = torch.tensor([[0.3, -0.2, 0.1]])
    counts = torch.zeros(1, 3)
    bias, new_ema, _ = update_bias(
        torch.zeros(1, 3), ema, counts, counts, eta=0.5, gamma=0.0, ema_rate=0.5, b_max=1.0
    )
    assert torch.equal(new_ema, ema)
    assert torch.equal(bias, torch.zeros(1, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_centred_and_bounded_at_once(dtype):
    g = torch.Generator().manual_seed(2)
    start = 3 * torch.randn(4, 7, generator=g, dtype=dtype).exp()
    zero = torch.zeros(4, 7, dtype=dtype)
    bias, _, _ = update_bias(start, zero, zero, zero, eta=0.0, gamma=0.0, ema_rate=0.1, b_max=0.5)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    assert bias.dtype == dtype
    assert float(bias.mean(dim=1).abs().max()) < tolerance
    assert float(bias.abs().max()) <= 0.5
    order = start.argsort(dim=1)
    assert bool((bias.gather(1, order).diff(dim=1) >= 0).all()), "the order of the experts survives"


def test_projection_is_the_nearest_point():
    start = torch.tensor([[2.0, 0.3, 0.1, -0.2, -0.4]], dtype=torch.float64)
    zero = torch.zeros_like(start)
    bias, _, _ = update_bias(start, zero, zero, zero, eta=0.0, gamma=0.0, ema_rate=0.1, b_max=0.6)
    # 0.6 at the bound, the other four shifted by -0.1 to sum to -0.6
    expected = torch.tensor([[0.6, 0.2, 0.0, -0.3, -0.5]], dtype=torch.float64)
    torch.testing.assert_close(bias, expected, atol=1e-12, rtol=0)


def test_a_zero_bias_stays_zero_to_the_bit():
    indices, advantages, mask = routed()
    zero = torch.zeros(L, N)
    bias, _, metrics = update_bias(
        zero, zero, routed_slots(indices, mask, N), advantage_sums(indices, advantages, mask, N),
        eta=0.0, gamma=0.0, ema_rate=0.1, b_max=1.0,
    )  # fmt: skip
    assert torch.equal(bias, zero)
    assert metrics["bias/spread"] == 0.0


def test_minus_moves_load_towards_balance():
    """Experts with fixed scores, the load their softmax: minus must lower MaxVio, plus raise it."""

    def max_vio(logits: torch.Tensor) -> float:
        return float(logits.shape[-1] * logits.softmax(-1).max() - 1)

    scores = torch.tensor([[0.8, 0.1, -0.3, -0.6]], dtype=torch.float64)
    final = {}
    for sign in ("minus", "plus"):
        bias = torch.zeros_like(scores)
        for _ in range(200):
            counts = 1000 * (scores + bias).softmax(-1)
            bias, _, _ = update_bias(
                bias, torch.zeros_like(bias), counts, torch.zeros_like(bias), eta=0.05, gamma=0.0,
                ema_rate=0.1, b_max=1.0, sign=sign,
            )  # fmt: skip
        final[sign] = max_vio(scores + bias)
    start = max_vio(scores)
    assert final["minus"] < 0.01 < start < final["plus"]


def test_refusals():
    zero = torch.zeros(2, 3)
    common = {"eta": 0.1, "gamma": 0.1, "ema_rate": 0.1}
    with pytest.raises(ValueError, match=r"\(2, 4\)"):
        update_bias(zero, zero, torch.zeros(2, 4), zero, b_max=1.0, **common)
    with pytest.raises(ValueError, match="b_max"):
        update_bias(zero, zero, zero, zero, b_max=0.0, **common)
    with pytest.raises(ValueError, match=r"\(10,\)"):
        routed_slots(torch.zeros(L, T, K, dtype=torch.long), torch.ones(T - 1), N)


def test_the_balance_loss_of_a_layer_is_that_of_transformers():
    generator = torch.Generator().manual_seed(2)
    logits, top_k = torch.randn(30, 6, generator=generator), 2
    probs = logits.softmax(-1).requires_grad_()
    indices = probs.topk(top_k).indices[None]
    slots = routed_slots(indices, torch.ones(30), 6)
    load = top_k * slots / slots.sum(1, keepdim=True)
    found = balance_loss(probs[None], load) / 30
    wanted = balancing_loss((logits,), 6, top_k, torch.ones(3, 10))
    assert float(found.detach()) == pytest.approx(float(wanted), rel=1e-5)
    found.backward()
    assert torch.allclose(probs.grad, (6 / 30) * load.float().expand(30, 6))


def test_an_even_router_costs_the_number_of_its_experts():
    probs = torch.full((3, 4, 5), 0.2)
    assert float(balance_loss(probs, torch.full((3, 5), 0.4))) == pytest.approx(4 * 2)
