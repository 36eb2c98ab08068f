import pytest
import torch

from padd_stages.lib.objectives.language import next_token_loss


def test_equals_cross_entropy_and_adds_up():
    logits = torch.randn(
        5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).requires_grad_()
    targets, mask = torch.tensor([1, 6, 0, 2, 3]), torch.tensor([1, 1, 0, 1, 1])
    logprobs = logits.log_softmax(-1)[torch.arange(5), targets]
    loss, metrics = next_token_loss(logprobs, mask, normalizer=4.0)
    kept = mask.bool()
    expected = torch.nn.functional.cross_entropy(logits[kept], targets[kept])
    torch.testing.assert_close(loss, expected, atol=1e-12, rtol=0)
    (grad,) = torch.autograd.grad(loss, logits, retain_graph=True)
    torch.testing.assert_close(grad, torch.autograd.grad(expected, logits)[0], atol=1e-12, rtol=0)
    assert float(metrics["sum/nll"] / metrics["sum/words"]) == pytest.approx(float(loss.detach()))
    parts = [next_token_loss(logprobs[p], mask[p], normalizer=4.0)[0] for p in (slice(0, 2), slice(2, 5))]
    torch.testing.assert_close(sum(parts), loss, atol=1e-12, rtol=0)


def test_by_hand_and_padding():
    loss, _ = next_token_loss(
        torch.tensor([-1.0, float("nan"), -3.0]), torch.tensor([1, 0, 1]), normalizer=2.0
    )
    assert float(loss) == 2.0


def test_refuses_another_shape():
    with pytest.raises(ValueError, match=r"\(3,\)"):
        next_token_loss(torch.zeros(3), torch.ones(4), normalizer=1.0)
