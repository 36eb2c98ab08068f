"""Router drift and the weights computed from it (docs/METHOD.md, section 4, Stage III; section 5, rspo)."""

import math
from typing import Literal

import torch
from torch import Tensor

ACTIVE_RANGE = (0.5, 0.98)  # docs/METHOD.md, section 4: mean weight of A < 0 tokens at the last update
QUANTILES = {"p05": 0.05, "p50": 0.5, "p95": 0.95}


def router_drift(probs: Tensor, old_probs: Tensor) -> Tensor:
    """Compute Gamma, the mean over MoE layers of the L2 distance of two router distributions.

    Args:
        probs, old_probs: (L, T, N) over all N experts, bias included.

    Returns:
        (T,) in fp32 (fp64 for fp64 probs); gradient flows where probs carry one.
    """
    _check_alike(probs, old_probs)
    dtype = _wide(probs)
    total = torch.zeros(probs.shape[1], dtype=dtype, device=probs.device)
    # Layer by layer: the difference of two whole traces would cost a third one.
    for new, old in zip(probs, old_probs):
        total = total + torch.linalg.vector_norm(new.to(dtype) - old.to(dtype), dim=-1)
    return total / probs.shape[0]


@torch.no_grad()
def router_l1(probs: Tensor, old_probs: Tensor) -> Tensor:
    """Compute the Router-shift of Figure 4, the mean over MoE layers of sum_j |G_j - G_old_j|.

    Source: docs/METHOD.md, section 8.

    Args:
        probs, old_probs: (L, T, N) over all N experts, bias included.

    Returns:
        (T,) in fp32 (fp64 for fp64 probs), from 0 (equal distributions) to 2 (disjoint distributions).
    """
    _check_alike(probs, old_probs)
    total = torch.zeros(probs.shape[1], dtype=_wide(probs), device=probs.device)
    for new, old in zip(probs, old_probs):
        total += (new.to(total.dtype) - old.to(total.dtype)).abs().sum(dim=-1)
    return total / probs.shape[0]


def drift_log_weight(
    gamma: Tensor, advantages: Tensor, lam: float, scale: float | Tensor = 1.0, *, keep_grad: bool = False
) -> Tensor:
    """Compute log w = -lambda * Gamma / scale on A < 0, else 0.

    Args:
        gamma: (B, T).
        advantages: (B,).
        scale: running mean of Gamma (`--drift-units relative`) or 1 (`raw`). It is 0 as long as no router has moved;
            Gamma is then 0 and the weight 1.
        keep_grad: let the gradient through Gamma (`--drift-grad`).

    Returns:
        (B, T).
    """
    if gamma.ndim != 2 or advantages.shape != gamma.shape[:1]:
        raise ValueError(
            f"gamma is {tuple(gamma.shape)} and advantages {tuple(advantages.shape)}, not (B, T) and (B,)."
        )
    gamma = gamma if keep_grad else gamma.detach()
    unit = torch.as_tensor(scale, dtype=gamma.dtype, device=gamma.device).clamp(
        min=torch.finfo(gamma.dtype).tiny
    )
    return torch.where(advantages[:, None] < 0, -lam * (gamma / unit), 0.0)


@torch.no_grad()
def router_shift(probs: Tensor, old_probs: Tensor, old_indices: Tensor) -> Tensor:
    """Compute RSPO's distance: mean over MoE layers and old active experts of |log G_new - log G_old|.

    Source: docs/METHOD.md, section 5, rspo.

    Args:
        probs, old_probs: (L, T, N), the full softmax.
        old_indices: (L, T, K).

    Returns:
        (T,) in fp32 (fp64 for fp64 probs), without gradient.
    """
    if probs.shape != old_probs.shape or old_indices.shape[:2] != probs.shape[:2]:
        raise ValueError(
            f"Shapes {tuple(probs.shape)}, {tuple(old_probs.shape)} and indices {tuple(old_indices.shape)} "
            "are not (L, T, N) twice and (L, T, K)."
        )
    dtype = _wide(probs)
    tiny = torch.finfo(dtype).tiny  # a probability that underflowed must not give an infinite distance
    total = torch.zeros(probs.shape[1], dtype=dtype, device=probs.device)
    for new, old, index in zip(probs, old_probs, old_indices):
        new_log = new.gather(-1, index.long()).to(dtype).clamp(min=tiny).log()
        old_log = old.gather(-1, index.long()).to(dtype).clamp(min=tiny).log()
        total += (new_log - old_log).abs().mean(dim=-1)
    return total / probs.shape[0]


def rspo_log_weight(shift: Tensor, floor: float) -> Tensor:
    """Compute log g, g = max(exp(-shift), floor), of `router_shift`'s (T,), for either sign of the advantage."""
    return (-shift.detach()).clamp(min=math.log(floor))


def stage3_state(mean_weight: float) -> Literal["active", "inactive", "saturated"]:
    """Label a run by the mean drift weight of its A < 0 tokens at the last update: 0.5 to 0.98 is active.

    NaN (no A < 0 token at all) is inactive: no token was weighted.
    """
    if not mean_weight <= ACTIVE_RANGE[1]:
        return "inactive"
    return "active" if mean_weight >= ACTIVE_RANGE[0] else "saturated"


@torch.no_grad()
def drift_metrics(log_weight: Tensor, gamma: Tensor, advantages: Tensor) -> dict[str, float]:
    """Summarise the distributions of w and Gamma over the response tokens with A < 0.

    Args:
        log_weight, gamma, advantages: (M,), one entry a response token of a whole batch, since quantiles do not add up.

    Returns:
        drift/weight_* and drift/gamma_* for mean, p05, p50, p95, and drift/gamma_all_mean over every response token.
        Without an A < 0 token: weight 1, Gamma 0.
    """
    negative = advantages < 0
    metrics = {"drift/gamma_all_mean": float(gamma.mean()) if gamma.numel() else 0.0}
    metrics |= distribution("drift/weight", log_weight[negative].exp(), empty=1.0)
    return metrics | distribution("drift/gamma", gamma[negative], empty=0.0)


@torch.no_grad()
def rspo_metrics(log_weight: Tensor, floor: float) -> dict[str, float]:
    """Return rspo/weight_* (mean, p05, p50, p95 of g) and rspo/floor_fraction, over response tokens (M,)."""
    held = float((log_weight <= math.log(floor)).float().mean()) if log_weight.numel() else 0.0
    return distribution("rspo/weight", log_weight.exp(), empty=1.0) | {"rspo/floor_fraction": held}


def distribution(name: str, values: Tensor, *, empty: float) -> dict[str, float]:
    """Return NAME_mean and NAME_p05, p50, p95 of values (M,), each of them `empty` where M is 0."""
    if not values.numel():
        return {f"{name}_{label}": empty for label in ("mean", *QUANTILES)}
    ordered = values.float().sort().values  # torch.quantile refuses more than 2**24 values
    last = ordered.numel() - 1
    quantiles = {f"{name}_{label}": float(ordered[round(q * last)]) for label, q in QUANTILES.items()}
    return {f"{name}_mean": float(ordered.mean())} | quantiles


def _check_alike(probs: Tensor, old_probs: Tensor) -> None:
    if probs.shape != old_probs.shape or probs.ndim != 3 or probs.shape[0] == 0:
        raise ValueError(
            f"Router probabilities have shapes {tuple(probs.shape)} and {tuple(old_probs.shape)}; "
            "drift needs (layers, tokens, experts) twice, at least one layer."
        )


def _wide(probs: Tensor) -> torch.dtype:
    return torch.float64 if probs.dtype == torch.float64 else torch.float32
