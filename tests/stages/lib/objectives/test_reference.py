import math

import torch

from padd_stages.lib.objectives.reference import k3, reference_kl


def test_k3_by_hand():
    assert float(k3(torch.tensor(0.0), torch.tensor(0.0))) == 0.0
    value = k3(torch.tensor(-1.0, dtype=torch.float64), torch.tensor(-1.5, dtype=torch.float64))
    assert abs(float(value) - (math.exp(-0.5) + 0.5 - 1)) < 1e-12


def test_its_mean_under_the_policy_is_the_kl():
    policy = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    reference = torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64)
    kl = (policy * (policy / reference).log()).sum()
    torch.testing.assert_close((policy * k3(policy.log(), reference.log())).sum(), kl, atol=1e-12, rtol=0)


def test_sum_mask_gradient_and_micro_batches():
    g = torch.Generator().manual_seed(0)
    new = torch.randn(3, 4, generator=g, dtype=torch.float64).requires_grad_()
    reference = torch.randn(3, 4, generator=g, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0]])
    loss, metrics = reference_kl(new, torch.where(mask.bool(), reference, math.inf), mask, normalizer=6.0)
    total = 0.0
    expected = torch.zeros(3, 4, dtype=torch.float64)
    for i in range(3):
        for t in range(int(mask[i].sum())):
            d = float(reference[i, t] - new[i, t])
            total += math.exp(d) - d - 1
            expected[i, t] = (1 - math.exp(d)) / 6
    assert abs(float(loss) - total / 6) < 1e-9
    assert abs(float(metrics["sum/reference_kl"]) - total) < 1e-9
    (grad,) = torch.autograd.grad(loss, new)
    torch.testing.assert_close(grad, expected, atol=1e-9, rtol=0)
    rows = [
        reference_kl(new[i : i + 1], reference[i : i + 1], mask[i : i + 1], normalizer=6.0) for i in range(3)
    ]
    assert abs(sum(float(value) for value, _ in rows) - total / 6) < 1e-12
