"""Correlation over tokens, from sums alone."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class CorrelationSums:
    """Pearson correlations of N cluster activations with N router probabilities over tokens, from sums in fp64."""

    def __init__(self, clusters: int) -> None:
        self.first = torch.zeros(2, clusters, dtype=torch.float64)  # sums of activations, of probabilities
        self.second = torch.zeros(2, clusters, dtype=torch.float64)  # sums of their squares
        self.cross = torch.zeros(clusters, clusters, dtype=torch.float64)
        self.count = 0

    def add(self, activations: Tensor, probs: Tensor) -> None:
        """Add tokens: activations (tokens, N) of the clusters, probs (tokens, N) of the experts, row by row."""
        pair = torch.stack([activations.cpu().double(), probs.cpu().double()])  # (2, tokens, N)
        self.first += pair.sum(dim=1)
        self.second += pair.square().sum(dim=1)
        self.cross += pair[0].T @ pair[1]
        self.count += pair.shape[1]

    def add_up(self, total: Callable[[Tensor], Tensor]) -> None:
        """Take the sums over all processes in place of this one's; ``total`` returns that of a tensor."""
        self.first, self.second, self.cross = total(self.first), total(self.second), total(self.cross)
        self.count = int(total(torch.tensor(self.count)))

    def correlation(self) -> NDArray[np.float64]:
        """Return (clusters, experts) in [-1, 1]; 0 where one of the two is constant."""
        count = max(self.count, 1)
        means = self.first / count
        deviations = (self.second / count - means.square()).clamp_min(0).sqrt()
        scale = torch.outer(deviations[0], deviations[1])
        covariance = self.cross / count - torch.outer(means[0], means[1])
        # Rounding of the sums looks like a tiny deviation where there is none.
        varying = scale > 1e-12 * torch.outer(means[0].abs(), means[1].abs())
        return torch.where(varying, covariance / scale.clamp_min(1e-300), 0.0).clamp(-1, 1).numpy()
