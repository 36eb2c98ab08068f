"""Next-token cross-entropy (docs/METHOD.md, section 3, L_LM)."""

import torch
from torch import Tensor


def next_token_loss(logprobs: Tensor, mask: Tensor, *, normalizer: float) -> tuple[Tensor, dict[str, Tensor]]:
    """-sum of the log-probabilities of the words that follow / normalizer; micro-batches add up.

    logprobs, mask: one shape; mask is 1 where the word counts. normalizer: such words in the global batch.
    Returns the loss and {"sum/nll", "sum/words"}, nats and a count.
    """
    if logprobs.shape != mask.shape:
        raise ValueError(
            f"logprobs are {tuple(logprobs.shape)} and their mask {tuple(mask.shape)}; not equal."
        )
    total = -torch.where(mask.bool(), logprobs, 0.0).sum()
    return total / normalizer, {"sum/nll": total.detach(), "sum/words": mask.bool().sum().to(total.dtype)}
