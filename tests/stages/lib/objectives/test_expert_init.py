import math

import pytest
import torch

from padd_stages.lib.objectives.expert_init import (
    activation_distribution,
    init_loss_dataset,
    init_loss_linear,
    init_loss_token,
)

L, T, N, K = 3, 4, 6, 2
XI = 0.7


def activations(seed, *shape):
    g = torch.Generator().manual_seed(seed)
    return 0.2 + torch.rand(*shape, generator=g, dtype=torch.float64)


def slow_distribution(h):
    mean = sum(h) / len(h)
    e = [math.exp(x / mean / XI) for x in h]
    return [x / sum(e) for x in e]


def slow_kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q))


def test_distribution():
    h = activations(0, L, N)
    expected = [slow_distribution(row) for row in h.tolist()]
    torch.testing.assert_close(activation_distribution(h, XI), torch.tensor(expected, dtype=torch.float64))
    by_hand = activation_distribution(
        torch.tensor([1.0, 3.0], dtype=torch.float64), 1.0
    )  # h / mean: 0.5, 1.5
    assert float(by_hand[0]) == pytest.approx(1 / (1 + math.e), abs=1e-12)
    torch.testing.assert_close(activation_distribution(7 * h, XI), activation_distribution(h, XI))


def test_distribution_of_silent_experts_is_uniform():
    assert activation_distribution(torch.zeros(4), XI).tolist() == [0.25] * 4


def test_dataset_loss():
    h, target = activations(1, L, N).requires_grad_(), activation_distribution(activations(2, L, N), XI)
    loss, metrics = init_loss_dataset(h, target, XI)
    layers = [slow_kl(slow_distribution(a), b) for a, b in zip(h.tolist(), target.tolist())]
    assert float(loss) == pytest.approx(sum(layers) / L, abs=1e-9)
    assert metrics["init_kl"].tolist() == pytest.approx(layers, abs=1e-9)
    assert torch.autograd.gradcheck(lambda x: init_loss_dataset(x, target, XI)[0], h)
    assert float(init_loss_dataset(h, activation_distribution(h, XI), XI)[0]) == pytest.approx(0, abs=1e-12)


def test_linear_loss_has_the_gradient_of_the_dataset_loss_and_adds_up():
    tokens, target = (
        activations(3, L, T, N).requires_grad_(),
        activation_distribution(activations(4, L, N), XI),
    )
    mean = tokens.mean(dim=1)
    (wanted,) = torch.autograd.grad(init_loss_dataset(mean, target, XI)[0], tokens, retain_graph=True)
    parts = [tokens[:, :1].sum(dim=1), tokens[:, 1:].sum(dim=1)]
    losses = [init_loss_linear(mean, part, target, XI, normalizer=T)[0] for part in parts]
    (grad,) = torch.autograd.grad(torch.stack(losses).sum(), tokens)
    torch.testing.assert_close(grad, wanted, atol=1e-12, rtol=0)


def test_linear_loss_is_the_first_order_change():
    running, target = activations(5, L, N), activation_distribution(activations(6, L, N), XI)
    nudge = 1e-5 * activations(7, L, N)
    value, metrics = init_loss_linear(running, 8 * (running + nudge), target, XI, normalizer=8)
    change = init_loss_dataset(running + nudge, target, XI)[0] - init_loss_dataset(running, target, XI)[0]
    assert float(value) == pytest.approx(float(change), rel=1e-3)
    assert float(metrics["init_kl"].mean()) == pytest.approx(float(init_loss_dataset(running, target, XI)[0]))


@pytest.mark.parametrize("active_only", [False, True])
def test_token_loss(active_only):
    teacher, weight = activations(8, L, T, N), torch.tensor([0.5, 0.0, 1.0, 2.0], dtype=torch.float64)
    indices = activations(9, L, T, N).topk(K, dim=-1).indices if active_only else None
    student = activations(10, L, T, K if active_only else N).requires_grad_()
    loss, metrics = init_loss_token(student, teacher, xi=XI, weight=weight, indices=indices)
    total = 0.0
    for t in range(T):
        layers = []
        for m in range(L):
            experts = range(N) if indices is None else indices[m, t].tolist()
            chosen = [float(teacher[m, t, j]) for j in experts]
            layers.append(slow_kl(slow_distribution(student[m, t].tolist()), slow_distribution(chosen)))
        assert float(metrics["init_kl"][t]) == pytest.approx(sum(layers) / L, abs=1e-9)
        total += float(weight[t]) * sum(layers) / L
    assert float(loss) == pytest.approx(total, abs=1e-9)

    def value(x):
        return init_loss_token(x, teacher, xi=XI, weight=weight, indices=indices)[0]

    assert torch.autograd.gradcheck(value, student)


def test_refusals():
    with pytest.raises(ValueError, match=r"\(3, 6\)"):
        init_loss_dataset(torch.ones(L, N), torch.ones(L, N - 1), XI)
    with pytest.raises(ValueError, match=r"\(3, 4, 2\)"):
        init_loss_token(torch.ones(L, T, K), torch.ones(L, T, N), xi=XI, weight=torch.ones(T))
