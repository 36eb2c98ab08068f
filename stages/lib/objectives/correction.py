"""Weights against a sampler that is not quite the old policy (docs/METHOD.md, section 4).

Sources: tis, Yao et al. (2025), "Your efficient RL framework secretly brings you off-policy RL training", cap 2;
icepop, arXiv 2510.18855 (Ring-1T), range 0.5 to 5; mis, Liu et al. (2025), "When speed kills stability", whole
responses masked, with the cap of TRL's default (sequence_mask, 3).
"""

from typing import Literal

import torch
from torch import Tensor

Correction = Literal["none", "tis", "mis", "icepop"]
TIS_CAP = 2.0
ICEPOP_RANGE = (0.5, 5.0)
MIS_CAP = 3.0


def correction_weights(
    old_logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor, kind: Correction
) -> Tensor:
    """Compute the weight of each token's policy term; without gradient.

    Args:
        old_logprobs, sampler_logprobs: (B, T), both at the rollout's temperature.
        mask: (B, T), 1 on response tokens.

    Returns:
        (B, T), 0 outside the mask. Of the ratio r = exp(old - sampler): tis min(r, 2); icepop r within 0.5 to 5, else
        0; mis the product of a response's r at each of its tokens, 0 above 3; none 1.
    """
    keep = mask.bool()
    log_ratio = torch.where(keep, old_logprobs - sampler_logprobs, 0.0).detach()
    if kind == "mis":
        log_ratio = log_ratio.sum(dim=1, keepdim=True).expand_as(log_ratio)
    ratio = log_ratio.exp()
    if kind == "tis":
        ratio = ratio.clamp(max=TIS_CAP)
    elif kind == "icepop":
        low, high = ICEPOP_RANGE
        ratio = torch.where((ratio >= low) & (ratio <= high), ratio, 0.0)
    elif kind == "mis":
        ratio = torch.where(ratio <= MIS_CAP, ratio, 0.0)
    else:
        ratio = torch.ones_like(ratio)
    return torch.where(keep, ratio, 0.0)


def correction_metrics(ratio: Tensor, kind: Correction) -> dict[str, float]:
    """Summarise the ratios of a rollout, of its tokens, or for mis of its responses.

    Returns:
        sampling/importance_sampling_ratio/ mean, p99, max (mean and max are TRL's names), and sampling/corrected, the
        share that is capped or masked.
    """
    low, high = {"tis": (0.0, TIS_CAP), "icepop": ICEPOP_RANGE, "mis": (0.0, MIS_CAP)}[kind]
    name = "sampling/importance_sampling_ratio"
    ordered = ratio.sort().values
    return {
        f"{name}/mean": float(ratio.mean()),
        f"{name}/p99": float(ordered[int(0.99 * (len(ordered) - 1))]),
        f"{name}/max": float(ordered[-1]),
        "sampling/corrected": float(((ratio < low) | (ratio > high)).float().mean()),
    }
