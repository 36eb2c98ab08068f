"""Next-token cross-entropy (docs/METHOD.md, section 3, L_LM)."""

from torch import Tensor


def next_token_loss(logprobs: Tensor, *, normalizer: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute -sum of the target words' log-probabilities / normalizer, so that micro-batches add up.

    Args:
        logprobs: (M,), in nats.
        normalizer: target words of the global batch.

    Returns:
        The loss and {"sum/nll": the sum}.
    """
    total = -logprobs.sum()
    return total / normalizer, {"sum/nll": total.detach()}
