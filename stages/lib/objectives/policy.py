"""Clipped policy losses with one shared per-token weight (docs/METHOD.md, sections 4 and 5)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

LossKind = Literal["grpo", "dapo", "dr_grpo", "gspo", "gmpo"]

# Clip range of the ratio (gmpo: of its logarithm). docs/METHOD.md, section 5: GSPO's from arXiv 2507.18071,
# GMPO's 0.4 is the value of public implementations.
CLIP_RANGE: dict[LossKind, tuple[float, float]] = {
    "grpo": (0.2, 0.2),
    "dapo": (0.2, 0.2),
    "dr_grpo": (0.2, 0.2),
    "gspo": (3e-4, 4e-4),
    "gmpo": (0.4, 0.4),
}


@dataclass(frozen=True)
class PolicyLossOptions:
    """The arguments of `policy_loss` that are no tensors, to be passed on as `**vars(options)`."""

    kind: LossKind
    eps_low: float
    eps_high: float
    max_completion_length: int | None = None
    weight_after_clip: bool = False


def loss_normalizer(
    kind: LossKind, *, responses: int, tokens: int, max_completion_length: int | None = None
) -> float:
    """Return the global constant that `policy_loss` divides by, from the counts of the whole batch of an update.

    Source: docs/METHOD.md, section 4, "The loss of a step".

    Args:
        responses, tokens: responses in the global batch and their response tokens.

    Raises:
        ValueError: dr_grpo without a max_completion_length.
    """
    if kind == "dapo":
        return float(max(tokens, 1))
    if kind != "dr_grpo":
        return float(max(responses, 1))
    if max_completion_length is None:
        raise ValueError(
            "dr_grpo divides by responses * max_completion_length, which is None; give the length."
        )
    return float(max(responses, 1) * max_completion_length)


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    kind: LossKind,
    eps_low: float,
    eps_high: float,
    normalizer: float,
    log_weight: Tensor | None = None,
    max_completion_length: int | None = None,
    weight_after_clip: bool = False,
    token_weight: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute -J of a micro-batch; the micro-batches of one update add up to the loss of that update.

    Args:
        logprobs, old_logprobs: (B, T).
        advantages: (B,), or (B, T) where tokens have their own; not for gspo and gmpo.
        mask: (B, T), 1 on response tokens.
        kind: grpo sums over responses the mean over tokens; dapo and dr_grpo sum over tokens; gspo clips one
            ratio exp(mean_t log ratio) a response; gmpo sums A * exp(mean_t c_t), c_t = min(log ratio, eps_high)
            for A > 0 and max(log ratio, -eps_low) for A < 0.
        normalizer: constant of the *global* batch, from `loss_normalizer`.
        log_weight: (B, T) log of the drift weight w (PR-GRPO) or of g (RSPO). It scales the ratio before the
            clip; gspo takes it into the mean. Gradient flows through it if it carries one.
        max_completion_length: checked against the mask for dr_grpo, whose normalizer rests on it.
        weight_after_clip: gmpo only: the weight joins after the clip (RSPO v1).
        token_weight: (B, T) of `correction_weights`, multiplies what is clipped; gspo and gmpo take a response's mean.

    Returns:
        The loss (scalar) and sums over this micro-batch, for `policy_metrics` after adding them up.

    Raises:
        ValueError: shapes or options that do not go together.
    """
    _check(
        logprobs, old_logprobs, advantages, mask, log_weight, kind, max_completion_length, weight_after_clip
    )
    keep = mask.bool()
    log_ratio = torch.where(keep, logprobs - old_logprobs, 0.0)  # (B, T)
    weight = torch.zeros_like(log_ratio) if log_weight is None else torch.where(keep, log_weight, 0.0)
    late, weight = (weight, torch.zeros_like(weight)) if weight_after_clip else (0.0, weight)
    a = advantages.view(len(advantages), -1).to(log_ratio.dtype)  # (B, 1) or (B, T)
    if kind == "gmpo":
        value = log_ratio + weight
        value = torch.where(a > 0, value.clamp(max=eps_high), value.clamp(min=-eps_low)) + late  # (B, T)
        objective = a * _token_mean(value, keep).exp() * keep.any(dim=1, keepdim=True)  # (B, 1)
        objective = objective if token_weight is None else objective * _token_mean(token_weight, keep)
    elif kind == "gspo":
        ratio = _token_mean(log_ratio + weight, keep).exp()  # (B, 1)
        objective = _clipped(ratio, a, eps_low, eps_high) * keep.any(dim=1, keepdim=True)
        objective = objective if token_weight is None else objective * _token_mean(token_weight, keep)
    else:
        objective = _clipped((log_ratio + weight).exp(), a, eps_low, eps_high) * keep  # (B, T)
        objective = objective if token_weight is None else objective * token_weight
        objective = _token_mean(objective, keep) if kind == "grpo" else objective
    metrics = _sums(log_ratio.detach(), weight.detach(), a, keep, kind, eps_low, eps_high)
    return -objective.sum() / normalizer, metrics


def policy_metrics(metrics: Mapping[str, Tensor | float]) -> dict[str, float]:
    """Compute the reported metrics from the `sum/` metrics of `policy_loss`, added up over a whole update.

    Returns:
        clip_ratio/low_mean, clip_ratio/high_mean: share of tokens (gspo: responses) that the clip holds, at A < 0
            and at A > 0; clip_ratio/region_mean: both (the names are TRL's).
        drift/suppressed_fraction: share of the A < 0 tokens whose gradient the weight removed: inside the clip
            range without it, outside with it.
        policy_kl: mean over tokens of the k3 estimate of KL(old || new), nats.
        A share of an empty set is 0.
    """
    total = {name: float(value) for name, value in metrics.items() if name.startswith("sum/")}

    def share(part: str, whole: str) -> float:
        return total[f"sum/{part}"] / max(total[f"sum/{whole}"], 1.0)

    low, high = share("clip_low", "clip_units"), share("clip_high", "clip_units")
    return {
        "clip_ratio/low_mean": low,
        "clip_ratio/high_mean": high,
        "clip_ratio/region_mean": low + high,
        "drift/suppressed_fraction": share("suppressed", "negative_tokens"),
        "policy_kl": share("policy_kl", "tokens"),
    }


def _clipped(ratio: Tensor, a: Tensor, eps_low: float, eps_high: float) -> Tensor:
    return torch.minimum(ratio * a, ratio.clamp(1 - eps_low, 1 + eps_high) * a)


def _token_mean(values: Tensor, keep: Tensor) -> Tensor:
    """Return the mean over response tokens, (B, T) -> (B, 1); 0 where there is none."""
    return (values * keep).sum(dim=1, keepdim=True) / keep.sum(dim=1, keepdim=True).clamp(min=1)


def _sums(
    log_ratio: Tensor,
    weight: Tensor,
    a: Tensor,
    keep: Tensor,
    kind: LossKind,
    eps_low: float,
    eps_high: float,
) -> dict[str, Tensor]:
    """Count the tokens where min picks the clipped, constant branch.

    Args:
        log_ratio, weight, keep: (B, T); weight is the logarithm of the drift weight.
        a: (B, 1) or (B, T) advantages.
    """
    token_ratio = log_ratio.exp()
    if kind == "gspo":
        log_ratio, weight = _token_mean(log_ratio, keep), _token_mean(weight, keep)  # (B, 1)
    shown, plain, one = (log_ratio + weight), log_ratio, 0.0
    if kind != "gmpo":
        shown, plain, one = shown.exp(), plain.exp(), 1.0
    low = (a < 0) & (shown < one - eps_low)
    high = (a > 0) & (shown > one + eps_high)
    removed = low & (plain >= one - eps_low)
    units = keep.any(dim=1, keepdim=True) if kind == "gspo" else keep
    counts = {
        "clip_low": (low & units).sum(),
        "clip_high": (high & units).sum(),
        "clip_units": units.sum(),
        "tokens": keep.sum(),
        "negative_tokens": (keep & (a < 0)).sum(),
        "suppressed": (removed & keep).sum(),
    }
    sums = {f"sum/{name}": count.to(token_ratio.dtype) for name, count in counts.items()}
    log_token_ratio = token_ratio.log() if kind == "gspo" else log_ratio
    sums["sum/policy_kl"] = ((token_ratio - 1 - log_token_ratio) * keep).sum()
    return sums


def _check(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    log_weight: Tensor | None,
    kind: LossKind,
    max_completion_length: int | None,
    weight_after_clip: bool,
) -> None:
    if kind not in CLIP_RANGE:
        raise ValueError(f"kind is {kind!r}, not one of {', '.join(CLIP_RANGE)}.")
    shapes = [tuple(t.shape) for t in (logprobs, old_logprobs, mask, log_weight) if t is not None]
    if (
        logprobs.ndim != 2
        or len(set(shapes)) > 1
        or advantages.shape not in (logprobs.shape[:1], logprobs.shape)
    ):
        raise ValueError(
            f"policy_loss got token tensors of shapes {shapes} and advantages {tuple(advantages.shape)}; "
            "it needs (B, T) for each and (B,)."
        )
    if advantages.ndim == 2 and kind in ("gspo", "gmpo"):
        raise ValueError(f"{kind} has one term a response, so tokens can have no advantages of their own.")
    if weight_after_clip and kind != "gmpo":
        raise ValueError(f"weight_after_clip is defined for gmpo only, not for {kind}.")
    if kind == "dr_grpo" and max_completion_length is not None:
        longest = int(mask.sum(dim=1).max()) if mask.numel() else 0
        if longest > max_completion_length:
            raise ValueError(
                f"A response has {longest} tokens, more than the {max_completion_length} of "
                "max_completion_length that dr_grpo divides by."
            )
