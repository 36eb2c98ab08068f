"""Similarity of a layer's experts, in their weights and in their activations."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from padd_stages.lib.runtime.sharding import gather

Floats = NDArray[np.float64]
COLUMNS_AT_ONCE = 1 << 18  # of an expert's flattened weights, widened to fp32 together


@torch.no_grad()
def weight_similarity(experts: nn.Module) -> Floats:
    """Compute the cosine of the experts' flattened weights (N, N), all their matrices as one vector.

    Experts that compute the same with their neurons in another order are not alike by it: it shows copies and
    what training made of them, not functions.

    Args:
        experts: a module whose parameters hold one expert a row, as transformers' experts do; of a sharded model they
            are gathered one at a time, a collective.
    """
    gram = torch.zeros(())
    for parameter in experts.parameters():
        for part in gather(parameter).flatten(1).split(COLUMNS_AT_ONCE, dim=1):
            wide = part.float()
            gram = gram + (wide @ wide.T).double().cpu()
    norms = gram.diagonal().sqrt().clamp_min(torch.finfo(torch.float64).tiny)
    return (gram / torch.outer(norms, norms)).clamp(-1, 1).numpy()


def similarity_json(activations: Floats, weights: Floats) -> dict[str, Any]:
    """Summarise one layer: over pairs of different experts, the mean absolute value and the largest value.

    activations: (N, N) Pearson correlations of the experts' mean absolute activations over tokens; weights: (N, N) of
    :func:`weight_similarity`.
    """
    return {
        f"{name}_{statistic}": value
        for name, matrix in (("activation", activations), ("weight", weights))
        for statistic, value in _off_diagonal(matrix).items()
    }


def _off_diagonal(matrix: Floats) -> dict[str, float]:
    values = matrix[~np.eye(len(matrix), dtype=bool)]
    return {"mean": float(np.abs(values).mean()), "max": float(values.max())}
