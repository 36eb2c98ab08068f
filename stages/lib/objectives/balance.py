"""Reward-augmented load balancing of the experts (docs/METHOD.md, section 4, Stage IV)."""

from typing import Literal

import torch
from torch import Tensor

BISECTIONS = 60  # halves an interval below fp64's resolution of a bias of order 1


def routed_slots(indices: Tensor, mask: Tensor, num_experts: int) -> Tensor:
    """Count the routed slots of each expert over response tokens.

    Args:
        indices: (L, T, K) of the old-policy forward.
        mask: (T,).

    Returns:
        Counts (L, N) fp64; they add up over micro-batches and processes.
    """
    return _scatter(indices, mask.bool().double(), num_experts)


def advantage_sums(indices: Tensor, advantages: Tensor, mask: Tensor, num_experts: int) -> Tensor:
    """Sum the advantages of the tokens routed to each expert, over response tokens.

    Args:
        indices: (L, T, K).
        advantages, mask: (T,).

    Returns:
        (L, N) fp64, to be added up like those of `routed_slots`.
    """
    return _scatter(indices, torch.where(mask.bool(), advantages.double(), 0.0), num_experts)


@torch.no_grad()
def update_bias(
    bias: Tensor,
    ema: Tensor,
    counts: Tensor,
    adv_sums: Tensor,
    *,
    eta: float,
    gamma: float,
    ema_rate: float,
    b_max: float,
    sign: Literal["minus", "plus"] = "minus",
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Update the router bias after a rollout: b += -eta (N f - 1) + gamma EMA, centred and bounded.

    EMA = ema_rate * A + (1 - ema_rate) * EMA with A the mean advantage of an expert's tokens; an expert without a token
    keeps its EMA. A layer without any token has no load term. The new bias is the nearest point with mean 0 and every
    |b| <= b_max: one shift a layer, then the clip, the shift chosen so that the mean is 0 after the clip. Where no bias
    reaches b_max that is plain centring.

    Args:
        bias, ema: (L, N).
        counts, adv_sums: (L, N) of the global batch.
        sign: "plus" is the printed +eta.

    Returns:
        New bias, new EMA (dtypes kept) and the metric bias/spread (max - min, mean over layers).

    Raises:
        ValueError: shapes that differ, a b_max that is not positive, or an unknown sign.
    """
    shapes = [tuple(t.shape) for t in (bias, ema, counts, adv_sums)]
    if bias.ndim != 2 or len(set(shapes)) > 1:
        raise ValueError(
            f"bias, ema, counts and adv_sums have shapes {shapes}; all must be (layers, experts)."
        )
    if b_max <= 0 or sign not in ("minus", "plus"):
        raise ValueError(f"b_max is {b_max} and sign {sign!r}; they must be positive and 'minus' or 'plus'.")
    counts = counts.double()
    load = bias.shape[1] * _shares(counts)  # (L, N), mean 1
    seen = counts > 0
    mean_advantage = adv_sums.double() / counts.clamp(min=1)
    new_ema = torch.where(seen, ema_rate * mean_advantage + (1 - ema_rate) * ema.double(), ema.double())
    direction = -1.0 if sign == "minus" else 1.0
    new_bias = _project(bias.double() + direction * eta * (load - 1) + gamma * new_ema, b_max)
    metrics = {"bias/spread": float((new_bias.amax(1) - new_bias.amin(1)).mean())}
    return new_bias.to(bias.dtype), new_ema.to(ema.dtype), metrics


def _scatter(indices: Tensor, values: Tensor, num_experts: int) -> Tensor:
    """Sum values (T,) by layer and expert of their slots: (L, N) fp64."""
    if indices.ndim != 3 or values.shape != indices.shape[1:2]:
        raise ValueError(
            f"indices have shape {tuple(indices.shape)} and the tokens {tuple(values.shape)}, not (L, T, K) and (T,)."
        )
    total = torch.zeros(indices.shape[0], num_experts, dtype=torch.float64, device=indices.device)
    for row, layer in zip(total, indices):  # layer by layer: the slots of all would take as much as a trace
        row.scatter_add_(0, layer.flatten().long(), values[:, None].expand(layer.shape).flatten())
    return total


def _shares(counts: Tensor) -> Tensor:
    """Return f (L, N), the share of a layer's routed slots; 1/N each where a layer has none."""
    total = counts.sum(dim=1, keepdim=True)
    return torch.where(total > 0, counts / total.clamp(min=1), 1 / counts.shape[1])


def _project(bias: Tensor, b_max: float) -> Tensor:
    """Project each row of bias (L, N) on {mean 0, |b| <= b_max}, the Euclidean nearest point.

    Centring and clipping in turn would not do: a clip moves the mean, and a constant on all experts changes no choice,
    so the rows could drift along it. The projection is clip(b - shift) with the one shift that makes the mean 0.
    """
    centred = bias - bias.mean(dim=1, keepdim=True)
    low, high = centred.amin(1, keepdim=True) - b_max, centred.amax(1, keepdim=True) + b_max
    for _ in range(BISECTIONS):  # the mean after the clip falls as the shift grows
        shift = (low + high) / 2
        above = (centred - shift).clamp(-b_max, b_max).mean(dim=1, keepdim=True) > 0
        low, high = torch.where(above, shift, low), torch.where(above, high, shift)
    bounded = (centred - (low + high) / 2).clamp(-b_max, b_max)
    # Rows inside the bound stay exactly centred, so that a bias of 0 stays 0 to the bit.
    return torch.where(centred.abs().amax(dim=1, keepdim=True) <= b_max, centred, bounded)


def balance_loss(probs: Tensor, load: Tensor) -> Tensor:
    """Compute the balance loss of Switch Transformers (arXiv 2101.03961), mean over layers, summed over tokens.

    Args:
        probs: (L, T, N) of the current policy, with gradient.
        load: (L, N) slots that an expert gets per token, K in sum; a constant, so that micro-batches add up.

    Returns:
        sum over T of N sum_e load_e P_e: K a token where load or probabilities are even.
    """
    return probs.shape[2] * torch.einsum("ltn,ln->", probs, load.to(probs)) / len(probs)
