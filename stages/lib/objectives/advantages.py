"""Group advantages (docs/METHOD.md, section 4, "Reward")."""

from typing import Literal

import torch
from torch import Tensor

STD_EPSILON = 1e-4  # docs/METHOD.md, section 4; the value of GRPO implementations


def group_advantages(
    rewards: Tensor, scale: Literal["group", "none"] = "group"
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the advantage of each sample over the mean of its group.

    Args:
        rewards: (P, G), G samples of each of P prompts.
        scale: "group" divides by the group's standard deviation (ddof 1) + 1e-4; "none" does not (Dr. GRPO).

    Returns:
        A (P, G) and the metrics reward, reward_std (mean over groups) and frac_reward_zero_std (share of groups that
        teach nothing, because all their rewards are equal).

    Raises:
        ValueError: another shape, a group of one, or a reward that is not finite.
    """
    if rewards.ndim != 2 or rewards.shape[0] < 1 or rewards.shape[1] < 2:
        raise ValueError(
            f"rewards have shape {tuple(rewards.shape)}; needed: (prompts, samples), 2 or more samples."
        )
    if not bool(torch.isfinite(rewards).all()):
        raise ValueError("A reward is not a finite number, so its group's advantages are undefined.")
    std = rewards.std(dim=1, correction=1, keepdim=True)  # (P, 1)
    equal = rewards.amax(dim=1, keepdim=True) == rewards.amin(dim=1, keepdim=True)  # (P, 1)
    # The mean of equal floats may be off by a rounding; a tiny negative A would switch the drift weight on.
    advantages = torch.where(equal, 0.0, rewards - rewards.mean(dim=1, keepdim=True))
    if scale == "group":
        advantages = advantages / (std + STD_EPSILON)
    elif scale != "none":
        raise ValueError(f"scale is {scale!r}, not 'group' or 'none'.")
    metrics = {
        "reward": rewards.mean(),
        "reward_std": torch.where(equal, 0.0, std).mean(),
        "frac_reward_zero_std": equal.to(rewards.dtype).mean(),
    }
    return advantages, metrics
