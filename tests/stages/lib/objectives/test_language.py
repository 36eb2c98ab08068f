import torch

from padd_stages.lib.objectives.language import next_token_loss


def test_equals_cross_entropy_and_adds_up():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 7, generator=generator, dtype=torch.float64).requires_grad_()
    targets = torch.tensor([1, 6, 0, 2, 3])
    logprobs = logits.log_softmax(-1)[torch.arange(5), targets]
    loss, metrics = next_token_loss(logprobs, normalizer=5.0)
    expected = torch.nn.functional.cross_entropy(logits, targets)
    torch.testing.assert_close(loss, expected, atol=1e-12, rtol=0)
    (grad,) = torch.autograd.grad(loss, logits, retain_graph=True)
    torch.testing.assert_close(grad, torch.autograd.grad(expected, logits)[0], atol=1e-12, rtol=0)
    torch.testing.assert_close(metrics["sum/nll"] / 5, loss.detach())
    parts = [next_token_loss(logprobs[p], normalizer=5.0)[0] for p in (slice(0, 2), slice(2, 5))]
    torch.testing.assert_close(sum(parts), loss, atol=1e-12, rtol=0)


def test_by_hand():
    loss, _ = next_token_loss(torch.tensor([-1.0, -3.0]), normalizer=2.0)
    assert float(loss) == 2.0
