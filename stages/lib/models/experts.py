"""Forwards of the routed experts: all of them on every token, or top-K with their activations returned.

Weights are read in the family's layout (transposed, biased, gated or not), as the module declares it, and the
nonlinearity is each module's own, so interleaving and clamps (GPT-OSS) are the family's. Where all experts run, they do
one after another, so that no tensor of all their outputs, (N, tokens, D), is ever made.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from padd_stages.lib.compat.transformers import apply_gate, grouped_experts


def run_all(experts: Any, hidden: Tensor, weights: Tensor, *, grad: bool = False) -> tuple[Tensor, Tensor]:
    """Run every expert on every token.

    Args:
        hidden: (tokens, D).
        weights: (tokens, N).
        grad: keep the graph of the activations.

    Returns:
        The weighted sum (tokens, D) in hidden's dtype, and the experts' activations (tokens, N) fp32: mean over an
        expert's neurons of |activation| just before the down projection.
    """
    total = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device)
    mean_activations = []
    for expert in range(weights.shape[-1]):
        activation, out = _run_one(experts, expert, hidden)
        total += out * weights[:, expert, None]
        mean_activations.append(_mean_abs(activation, grad))
    return total.to(hidden.dtype), torch.stack(mean_activations, dim=-1)


def run_top_k(
    experts: Any, hidden: Tensor, indices: Tensor, weights: Tensor, *, grad: bool = False
) -> tuple[Tensor, Tensor]:
    """Run the chosen experts alone, by the library's grouped kernel.

    Args:
        hidden: (tokens, D).
        indices, weights: (tokens, K).
        grad: keep the graph of the activations.

    Returns:
        The output (tokens, D) in hidden's dtype, and the activations (tokens, K) fp32, aligned with `indices`.
    """
    out, activations = grouped_experts(
        experts, hidden, indices, weights, lambda inner: _mean_abs(inner, grad)
    )
    return out, activations.view(indices.shape)


def _run_one(experts: Any, expert: int, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Run one expert on rows (tokens, D); return its activations (tokens, width) and its output (tokens, D)."""
    name = "gate_up_proj" if experts.has_gate else "up_proj"
    inner = _project(experts, name, expert, hidden)
    activation = apply_gate(experts, inner) if experts.has_gate else experts.act_fn(inner)
    out = _project(experts, "down_proj", expert, activation)
    return activation, experts.post_expert_norm(out) if experts.has_post_expert_norm else out


def _project(experts: Any, name: str, expert: int, rows: Tensor) -> Tensor:
    weight = getattr(experts, name)[expert]
    bias = getattr(experts, f"{name}_bias")[expert] if experts.has_bias else None
    return F.linear(rows, weight.T if experts.is_transposed else weight, bias)


def _mean_abs(activation: Tensor, grad: bool) -> Tensor:
    return (activation if grad else activation.detach()).float().abs().mean(dim=-1)
