"""KL to a reference policy (docs/METHOD.md, section 4, "The loss of a step")."""

import torch
from torch import Tensor


def k3(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """Compute the k3 estimate of KL(pi || reference) at samples of pi, exp(log_r) - log_r - 1.

    log_r = log reference - log pi, of any shape; the estimate is never negative, and its mean is the KL.
    """
    difference = reference_logprobs - logprobs
    return difference.exp() - difference - 1


def reference_kl(
    logprobs: Tensor, reference_logprobs: Tensor, mask: Tensor, *, normalizer: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the sum over response tokens of k3 / normalizer; micro-batches add up.

    Args:
        logprobs, reference_logprobs, mask: (B, T).
        normalizer: response tokens of the global batch.

    Returns:
        The loss and {"sum/reference_kl": its undivided sum}.
    """
    keep = mask.bool()
    # Zeroed before the exponential: a padding position must not give inf * 0.
    total = k3(torch.where(keep, logprobs, 0.0), torch.where(keep, reference_logprobs, 0.0)).sum()
    return total / normalizer, {"sum/reference_kl": total.detach()}
