"""Matching of clusters to experts, and the router rows made from them.

docs/METHOD.md, section 2, "Router initialisation". A centroid is the mean of the rows *as they were clustered*: where
rows were L2-normalised, of the normalised ones, so that loud neurons do not outvote the rest of their cluster; its
length does not matter, since every router row is scaled to the one it replaces.
"""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

RouterMap = Literal["ridge", "random-projection", "truncate", "keep"]
Match = Literal["hungarian", "index"]


def match_experts(correlation: NDArray[np.float64], match: Match) -> NDArray[np.int32]:
    """Match clusters to experts and return expert_to_cluster (N,): expert j comes from cluster e[j].

    ``hungarian`` makes the sum of correlation (clusters, experts) over the pairs the greatest; ``index`` numbers
    both alike, as the paper does.
    """
    if match == "index":
        return np.arange(len(correlation), dtype=np.int32)
    clusters, experts = linear_sum_assignment(correlation, maximize=True)
    found = np.empty(len(correlation), np.int32)
    found[experts] = clusters
    return found


def map_centroids(
    centroids: Tensor, router_map: RouterMap, width: int, *, ridge: Tensor | None, seed: int
) -> Tensor | None:
    """Map centroids (N, d_T) to student directions (N, d_S) fp32, in cluster order; None for ``keep``.

    Args:
        router_map: ``ridge`` is M^T mu; ``random-projection`` a Gaussian matrix (d_T, d_S); ``truncate`` the
            first d_S numbers (zeros beyond d_T).
        width: d_S.
        ridge: M (d_T, d_S), for ``ridge``.
        seed: of the Gaussian matrix; the same in every layer, as the residual stream is.
    """
    if router_map == "keep":
        return None
    if router_map == "ridge":
        assert ridge is not None
        return (centroids.double() @ ridge).float()
    if router_map == "truncate":
        kept = centroids[:, :width]
        return torch.nn.functional.pad(kept, (0, width - kept.shape[1])).float()
    generator = torch.Generator().manual_seed(seed)
    projection = torch.randn(centroids.shape[1], width, generator=generator) / width**0.5
    return centroids.float() @ projection


def blend_rows(
    old: Tensor, directions: Tensor | None, expert_to_cluster: NDArray[np.int32], blend: float
) -> Tensor:
    """Blend router rows (N, d_S) fp32 in expert order: (1 - omega) old + omega new, of the old rows' length.

    Args:
        old: the student's rows (N, d_S).
        directions: (N, d_S) in cluster order; None keeps the old rows.
        blend: omega; 1 replaces (literal).

    New rows are centred over the clusters (what all rows share moves no choice). Each is scaled to the norm of the row
    that it replaces, and so is the blend: old and new are nearly orthogonal, so that a blend is shorter than both, and
    a shorter row makes the router less sure of every choice, new or old (docs/RESULTS.md, "Stage I").
    """
    old = old.detach().float().cpu()
    if directions is None:
        return old.clone()
    centred = directions - directions.mean(dim=0, keepdim=True)
    new = centred[torch.from_numpy(expert_to_cluster).long()]
    return _as_long_as(old, (1 - blend) * old + blend * _as_long_as(old, new))


def _as_long_as(old: Tensor, rows: Tensor) -> Tensor:
    return rows * (old.norm(dim=1, keepdim=True) / rows.norm(dim=1, keepdim=True).clamp_min(1e-30))
