import math

import pytest
import torch

from padd_stages.lib.objectives.policy import (
    CLIP_RANGE,
    PolicyLossOptions,
    loss_normalizer,
    policy_loss,
    policy_metrics,
)

KINDS = ("grpo", "dapo", "dr_grpo", "gspo", "gmpo")
B, T = 6, 5
RANGES = {"gspo": (0.1, 0.15), "gmpo": (0.2, 0.3)}  # the two ends differ, so that neither can stand in


def batch(seed=0, spread=0.4):
    g = torch.Generator().manual_seed(seed)
    new = (-2 + spread * torch.randn(B, T, generator=g, dtype=torch.float64)).requires_grad_()
    old = -2 + spread * torch.randn(B, T, generator=g, dtype=torch.float64)
    advantages = torch.tensor([1.3, -0.7, 0.0, -1.9, 0.4, 2.2], dtype=torch.float64)
    lengths = torch.tensor([5, 3, 2, 4, 1, 5])
    mask = (torch.arange(T)[None] < lengths[:, None]).double()
    log_weight = -0.5 * torch.rand(B, T, generator=g, dtype=torch.float64) * (advantages[:, None] < 0)
    return new, old, advantages, mask, log_weight


def slow_loss(new, old, advantages, mask, log_weight, kind, eps_low, eps_high, normalizer, after=False):
    """The formulas of docs/METHOD.md, token by token."""
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(new)):
        a, tokens = advantages[i], [t for t in range(new.shape[1]) if mask[i, t] > 0]
        ratios = [torch.exp(new[i, t] - old[i, t]) for t in tokens]
        weights = [torch.exp(log_weight[i, t]) for t in tokens]
        floor, roof = (torch.tensor(x, dtype=torch.float64) for x in (1 - eps_low, 1 + eps_high))
        if kind in ("grpo", "dapo", "dr_grpo"):
            terms = []
            for ratio, w in zip(ratios, weights):
                rho = ratio * w
                bounded = max(min(rho, roof), floor)
                terms.append(min(rho * a, bounded * a))
            total = total + sum(terms) / (len(tokens) if kind == "grpo" else 1)
        elif kind == "gspo":
            s = torch.exp(sum(torch.log(r * w) for r, w in zip(ratios, weights)) / len(tokens))
            bounded = max(min(s, roof), floor)
            total = total + min(s * a, bounded * a)
        else:
            logs = []
            for ratio, w in zip(ratios, weights):
                value = torch.log(ratio) if after else torch.log(ratio * w)
                if a > 0:
                    value = min(value, torch.tensor(eps_high, dtype=torch.float64))
                elif a < 0:
                    value = max(value, torch.tensor(-eps_low, dtype=torch.float64))
                logs.append(value + torch.log(w) if after else value)
            total = total + a * torch.exp(sum(logs) / len(tokens))
    return -total / normalizer


def assert_same_gradient(new, value, expected):
    (grad,) = torch.autograd.grad(value, new, retain_graph=True)
    (wanted,) = torch.autograd.grad(expected, new)
    torch.testing.assert_close(value, expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(grad, wanted, atol=1e-9, rtol=0)
    assert float(grad.abs().max()) > 1e-3


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_value_and_gradient_match_the_slow_version(kind, weighted, seed):
    new, old, advantages, mask, log_weight = batch(seed)
    low, high = RANGES.get(kind, (0.2, 0.28))
    loss, _ = policy_loss(
        new, old, advantages, mask, kind=kind, eps_low=low, eps_high=high, normalizer=17.0,
        log_weight=log_weight if weighted else None,
    )  # fmt: skip
    used = log_weight if weighted else torch.zeros_like(log_weight)
    assert_same_gradient(new, loss, slow_loss(new, old, advantages, mask, used, kind, low, high, 17.0))


def test_weight_after_the_clip():
    new, old, advantages, mask, log_weight = batch(3, spread=0.8)
    options = PolicyLossOptions("gmpo", 0.4, 0.4, weight_after_clip=True)
    loss, metrics = policy_loss(
        new, old, advantages, mask, normalizer=6.0, log_weight=log_weight, **vars(options)
    )
    expected = slow_loss(new, old, advantages, mask, log_weight, "gmpo", 0.4, 0.4, 6.0, after=True)
    before = slow_loss(new, old, advantages, mask, log_weight, "gmpo", 0.4, 0.4, 6.0)
    assert abs(float((before - expected).detach())) > 1e-3
    assert_same_gradient(new, loss, expected)
    assert float(metrics["sum/suppressed"]) == 0
    with pytest.raises(ValueError, match="gmpo only"):
        policy_loss(new, old, advantages, mask, normalizer=6.0, **vars(options) | {"kind": "grpo"})


def one(ratio, advantage, kind, weight=1.0, eps=0.2):
    new = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    options = {"kind": kind, "eps_low": eps, "eps_high": eps, "normalizer": 1.0}
    loss, metrics = policy_loss(
        new, torch.zeros(1, 1, dtype=torch.float64), torch.tensor([advantage], dtype=torch.float64),
        torch.ones(1, 1), log_weight=torch.tensor([[math.log(weight)]], dtype=torch.float64), **options,
    )  # fmt: skip
    (grad,) = torch.autograd.grad(loss, new)
    return float(loss), float(grad), metrics


@pytest.mark.parametrize(
    ("ratio", "advantage", "kind", "weight", "loss", "grad"),
    [
        (1.5, 2.0, "dapo", 1.0, -2.4, 0.0),  # clipped high at 1.2
        (1.1, 2.0, "dapo", 1.0, -2.2, -2.2),
        (0.5, 2.0, "dapo", 1.0, -1.0, -1.0),  # low ratio, A > 0: never clipped
        (0.5, -2.0, "dr_grpo", 1.0, 1.6, 0.0),  # clipped low at 0.8
        (1.5, -2.0, "grpo", 1.0, 3.0, 3.0),  # high ratio, A < 0: never clipped
        (1.0, -2.0, "grpo", 0.9, 1.8, 1.8),  # weight inside the range scales the gradient
        (1.0, -2.0, "grpo", 0.7, 1.6, 0.0),  # weight below 1 - eps removes it
        (1.5, 2.0, "gspo", 1.0, -2.4, 0.0),
        (math.exp(0.5), 1.0, "gmpo", 1.0, -math.exp(0.2), 0.0),
        (math.exp(-0.5), -1.0, "gmpo", 1.0, math.exp(-0.2), 0.0),
        (math.exp(-0.5), 1.0, "gmpo", 1.0, -math.exp(-0.5), -math.exp(-0.5)),
    ],
)
def test_by_hand(ratio, advantage, kind, weight, loss, grad):
    value, slope, _ = one(ratio, advantage, kind, weight)
    assert value == pytest.approx(loss, abs=1e-12)
    assert slope == pytest.approx(grad, abs=1e-12)


def test_token_means_and_sums_by_hand():
    new = torch.tensor([[0.1, 0.0], [0.0, 9.0]], dtype=torch.float64)  # exp(0.1) inside 1.2
    old, advantages = torch.zeros(2, 2, dtype=torch.float64), torch.tensor([1.0, -3.0], dtype=torch.float64)
    mask, common = torch.tensor([[1, 1], [1, 0]]), {"eps_low": 0.2, "eps_high": 0.2}
    mean, _ = policy_loss(new, old, advantages, mask, kind="grpo", normalizer=2.0, **common)
    total, _ = policy_loss(new, old, advantages, mask, kind="dapo", normalizer=3.0, **common)
    assert float(mean) == pytest.approx(-((math.exp(0.1) + 1) / 2 - 3) / 2, abs=1e-12)
    assert float(total) == pytest.approx(-(math.exp(0.1) + 1 - 3) / 3, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_micro_batches_add_up(kind):
    new, old, advantages, mask, log_weight = batch(2)
    normalizer = loss_normalizer(kind, responses=B, tokens=int(mask.sum()), max_completion_length=9)

    def run(rows, width=T):
        return policy_loss(
            new[rows, :width], old[rows, :width], advantages[rows], mask[rows, :width], kind=kind, eps_low=0.1,
            eps_high=0.1, normalizer=normalizer, log_weight=log_weight[rows, :width],
        )  # fmt: skip

    whole, sums = run(slice(0, B))
    parts = [run(slice(0, 1)), run(slice(1, 4), 4), run(slice(4, 6))]  # the second one trimmed of its padding
    (grad,) = torch.autograd.grad(whole, new)
    (added,) = torch.autograd.grad(torch.stack([loss for loss, _ in parts]).sum(), new)
    torch.testing.assert_close(added, grad, atol=1e-14, rtol=0)
    for name, value in sums.items():
        torch.testing.assert_close(sum(m[name] for _, m in parts), value, atol=1e-12, rtol=0)
    assert float(sums["sum/tokens"]) == 20


def test_published_clip_ranges():
    assert CLIP_RANGE["gspo"] == (3e-4, 4e-4)
    assert CLIP_RANGE["gmpo"] == (0.4, 0.4)
    assert CLIP_RANGE["grpo"] == (0.2, 0.2)


def test_normalizers():
    counts = {"responses": 6, "tokens": 20, "max_completion_length": 9}
    assert [loss_normalizer(kind, **counts) for kind in KINDS] == [6.0, 20.0, 54.0, 6.0, 6.0]
    with pytest.raises(ValueError, match="max_completion_length"):
        loss_normalizer("dr_grpo", responses=6, tokens=20)


@pytest.mark.parametrize("kind", KINDS)
def test_zero_log_weight_changes_no_bit(kind):
    new, old, advantages, mask, _ = batch(5)
    common = {"kind": kind, "eps_low": 0.1, "eps_high": 0.1, "normalizer": 7.0}
    results = []
    for weight in (None, -0.0 * torch.ones(B, T, dtype=torch.float64)):
        loss, _ = policy_loss(new, old, advantages, mask, log_weight=weight, **common)
        results.append((loss, *torch.autograd.grad(loss, new)))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("kind", KINDS)
def test_padding_cannot_reach_the_loss(kind):
    new, old, advantages, mask, log_weight = batch(4)
    common = {"kind": kind, "eps_low": 0.1, "eps_high": 0.1, "normalizer": 7.0}
    clean, _ = policy_loss(new, old, advantages, mask, log_weight=log_weight, **common)
    dirty = [torch.where(mask.bool(), t, float("nan")) for t in (new, old, log_weight)]
    loss, metrics = policy_loss(dirty[0], dirty[1], advantages, mask, log_weight=dirty[2], **common)
    (grad,) = torch.autograd.grad(loss, new)
    assert torch.equal(loss, clean)
    assert bool(grad.isfinite().all())
    assert all(math.isfinite(float(value)) for value in metrics.values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_response_without_tokens_counts_for_nothing(kind):
    new, old, advantages, mask, _ = batch(4)
    common = {"kind": kind, "eps_low": 0.1, "eps_high": 0.1, "normalizer": 7.0}
    mask[1] = 0
    rows = [0, 2, 3, 4, 5]
    whole, sums = policy_loss(new, old, advantages, mask, **common)
    rest, rest_sums = policy_loss(new[rows], old[rows], advantages[rows], mask[rows], **common)
    torch.testing.assert_close(whole, rest, atol=1e-14, rtol=0)
    for name, value in sums.items():
        torch.testing.assert_close(value, rest_sums[name], atol=1e-12, rtol=0)


def test_gradient_flows_through_a_weight_that_carries_one():
    new, old, advantages, mask, log_weight = batch(0, spread=0.01)
    log_weight = (0.1 * log_weight).requires_grad_()
    common = {"kind": "dapo", "eps_low": 0.2, "eps_high": 0.2, "normalizer": 20.0}
    loss, _ = policy_loss(new, old, advantages, mask, log_weight=log_weight, **common)
    by_weight, by_new = torch.autograd.grad(loss, (log_weight, new))
    torch.testing.assert_close(by_weight, by_new)  # rho = exp(log ratio + log w) sees only the sum


@pytest.mark.parametrize("kind", ["dapo", "gmpo"])
def test_metrics_by_counting(kind):
    new, old, advantages, mask, log_weight = batch(1)
    log_weight, eps = 2 * log_weight, 0.15
    _, sums = policy_loss(
        new,
        old,
        advantages,
        mask,
        kind=kind,
        eps_low=eps,
        eps_high=eps,
        normalizer=1.0,
        log_weight=log_weight,
    )
    counts = dict.fromkeys(("low", "high", "negative", "suppressed", "tokens"), 0)
    kl = 0.0
    bottom, top = (-eps, eps) if kind == "gmpo" else (math.log(1 - eps), math.log(1 + eps))
    for i in range(B):
        for t in range(T):
            if not mask[i, t]:
                continue
            a, ratio, w = float(advantages[i]), float(new[i, t] - old[i, t]), float(log_weight[i, t])
            counts["tokens"] += 1
            counts["negative"] += a < 0
            counts["low"] += a < 0 and ratio + w < bottom
            counts["high"] += a > 0 and ratio + w > top
            counts["suppressed"] += a < 0 and ratio + w < bottom <= ratio
            kl += math.exp(ratio) - 1 - ratio
    assert 0 < counts["suppressed"] < counts["low"] < counts["negative"]
    assert counts["high"] > 0
    assert policy_metrics(sums) == pytest.approx(
        {
            "clip_ratio/low_mean": counts["low"] / counts["tokens"],
            "clip_ratio/high_mean": counts["high"] / counts["tokens"],
            "clip_ratio/region_mean": (counts["low"] + counts["high"]) / counts["tokens"],
            "drift/suppressed_fraction": counts["suppressed"] / counts["negative"],
            "policy_kl": kl / counts["tokens"],
        }
    )


def test_gspo_counts_responses():
    new = torch.tensor([[0.5, 0.1, 0.0], [-0.5, 0.1, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0]])
    advantages = torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)
    weight = torch.tensor([[0.0] * 3, [0.0] * 3, [-0.4] * 3], dtype=torch.float64)
    _, sums = policy_loss(
        new, torch.zeros_like(new), advantages, mask, kind="gspo", eps_low=0.1, eps_high=0.1, normalizer=1.0,
        log_weight=weight,
    )  # fmt: skip
    report = policy_metrics(sums)
    assert report["clip_ratio/low_mean"] == pytest.approx(2 / 3)
    assert report["clip_ratio/high_mean"] == pytest.approx(1 / 3)
    assert report["drift/suppressed_fraction"] == pytest.approx(1 / 3)  # one of three A < 0 tokens
    expected = sum(math.exp(x) - 1 - x for x in (0.5, 0.1, -0.5, 0.1)) / 6
    assert report["policy_kl"] == pytest.approx(expected, abs=1e-12)


def test_finalize_of_nothing_is_zero():
    empty = torch.zeros(2, 3)
    _, sums = policy_loss(
        empty, empty, torch.zeros(2), empty, kind="dapo", eps_low=0.2, eps_high=0.2, normalizer=1.0
    )
    assert set(policy_metrics(sums).values()) == {0.0}


def test_refusals():
    new, old, advantages, mask, log_weight = batch()
    common = {"eps_low": 0.2, "eps_high": 0.2, "normalizer": 1.0}
    with pytest.raises(ValueError, match="ppo"):
        policy_loss(new, old, advantages, mask, kind="ppo", **common)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(6, 4\)"):
        policy_loss(new, old, advantages, mask, kind="grpo", log_weight=log_weight[:, :4], **common)
    with pytest.raises(ValueError, match=r"\(5,\)"):
        policy_loss(new, old, advantages[:5], mask, kind="grpo", **common)
    with pytest.raises(ValueError, match="5 tokens"):
        policy_loss(new, old, advantages, mask, kind="dr_grpo", max_completion_length=4, **common)


@pytest.mark.parametrize("kind", ["grpo", "dapo", "dr_grpo"])
def test_tokens_may_have_advantages_of_their_own(kind):
    torch.manual_seed(3)
    old = torch.randn(3, 5, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]])
    of_responses, of_tokens = torch.randn(3, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    rest = {"kind": kind, "eps_low": 0.2, "eps_high": 0.2, "normalizer": 7.0, "max_completion_length": 5}
    same = [
        policy_loss(old + 0.3, old, a, mask, **rest)
        for a in (of_responses, of_responses[:, None].expand(3, 5))
    ]
    assert float(same[0][0]) == pytest.approx(float(same[1][0]))
    assert same[0][1] == same[1][1]
    new = old.clone().requires_grad_()
    loss, _ = policy_loss(new, old, of_tokens, mask, **rest)
    [gradient] = torch.autograd.grad(loss, new)
    share = mask.sum(1, keepdim=True) if kind == "grpo" else 1
    torch.testing.assert_close(gradient, -of_tokens * mask / share / 7.0)
    with pytest.raises(ValueError, match="one term a response"):
        policy_loss(old, old, of_tokens, mask, **(rest | {"kind": "gspo", "max_completion_length": None}))
