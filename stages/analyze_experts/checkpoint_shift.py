"""Change of routing between two checkpoints on the same tokens (docs/METHOD.md, section 8)."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from padd_stages.analyze_experts.probe import TokenRoutes
from padd_stages.lib.objectives.drift import router_l1

PERCENTILES = np.linspace(0.0, 1.0, 101)


def shift_json(old: TokenRoutes, new: TokenRoutes) -> dict[str, Any]:
    """Compute Router-shift and path consistency of C tokens from one checkpoint to another.

    tokens: C. mean, quantiles: of Router-shift over tokens (:func:`.router_l1`, 0 to 2);
    the quantiles at 0, 1, ..., 100 % are the ECDF of Figure 5. mean_by_layer: (L,). same_top_k: share of (token, layer)
    whose K experts are the same; same_top_k_by_layer: (L,). jaccard: (L,) mean overlap of the two sets over the union.
    path_consistency: share of tokens whose K experts are the same in every layer.
    """
    shift = router_l1(new.probs, old.probs).double().numpy()
    same, overlap = _agreement(old.indices, new.indices)
    top_k = old.indices.shape[-1]
    return {
        "tokens": len(shift),
        "mean": float(shift.mean()),
        "quantiles": np.quantile(shift, PERCENTILES).tolist(),
        "mean_by_layer": [float(router_l1(n[None], o[None]).mean()) for n, o in zip(new.probs, old.probs)],
        "same_top_k": float(same.double().mean()),
        "same_top_k_by_layer": same.double().mean(dim=1).tolist(),
        "jaccard": (overlap / (2 * top_k - overlap)).mean(dim=1).tolist(),
        "path_consistency": float(same.all(dim=0).double().mean()),
    }


def expert_flow(old: TokenRoutes, new: TokenRoutes) -> Tensor:
    """Count (L, N, N) int32 the tokens whose first expert was i in the old checkpoint and is j in the new one."""
    experts = old.probs.shape[-1]
    cells = first_experts(old) * experts + first_experts(new)  # (L, C)
    counts = [torch.bincount(layer, minlength=experts * experts) for layer in cells]
    return torch.stack(counts).view(-1, experts, experts).int()


def first_experts(routes: TokenRoutes) -> Tensor:
    """Return (L, C) int64: of each token's chosen experts the one with the highest router probability."""
    chosen = routes.indices.long()
    best = routes.probs.gather(-1, chosen).argmax(dim=-1, keepdim=True)
    return chosen.gather(-1, best).squeeze(-1)


def _agreement(old: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    """Compare sets (L, C, K): whether they are the same (L, C), and how many experts they share (L, C) fp64."""
    shared = torch.stack(
        [(a.unsqueeze(-1) == b.unsqueeze(-2)).sum(dim=(-1, -2)) for a, b in zip(old, new, strict=True)]
    )
    return shared == old.shape[-1], shared.double()
