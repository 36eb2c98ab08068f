"""Sums over the routing of a model's tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from padd_stages.lib.measures.specialisation import joint_counts


@dataclass(frozen=True)
class RoutingSums:
    """Sums over a model's routing; their size grows with the problems, not with their tokens.

    Attributes:
        slots: (B, L, N) int64 routed slots of each problem's counted tokens.
        labels: (B,) subdomain of each problem.
        tokens: (S,) int64 counted tokens of each subdomain.
        probabilities: (L, S, N) float64 sums of router probabilities, the bias included.
        entropy: (L,) float64 sum over tokens of the entropy of the router probabilities, in nats.
    """

    slots: NDArray[np.int64]
    labels: NDArray[np.int64]
    tokens: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    entropy: NDArray[np.float64]

    @property
    def joint(self) -> NDArray[np.int64]:
        """Routed slots by expert and subdomain, (L, N, S)."""
        return joint_counts(self.slots, self.labels, len(self.tokens))

    @property
    def mean_probabilities(self) -> NDArray[np.float64]:
        """Mean router probabilities, (L, S, N); zero rows for subdomains without tokens."""
        return self.probabilities / np.maximum(self.tokens, 1)[None, :, None]

    @property
    def mean_entropy(self) -> NDArray[np.float64]:
        """Mean over tokens of the routing entropy over log N, (L,): 1 is an undecided router."""
        return self.entropy / (self.tokens.sum() * np.log(self.slots.shape[-1]))


class RoutingCounter:
    """Accumulator of :class:`RoutingSums`, batch by batch."""

    def __init__(self, labels: Sequence[int], subdomains: int, layers: int, experts: int) -> None:
        """Start from zero, with labels (B,) of the problems, subdomains S, layers L and experts N."""
        self.labels = np.array(labels, dtype=np.int64)
        self._slots = np.zeros((len(labels), layers, experts), dtype=np.int64)
        self._tokens = torch.zeros(subdomains, dtype=torch.long)
        self._probabilities = torch.zeros(layers, subdomains, experts, dtype=torch.float64)
        self._entropy = torch.zeros(layers, dtype=torch.float64)

    def add(self, members: list[int], rows: Tensor, indices: Tensor, probs: Tensor) -> None:
        """Add the C counted tokens of a batch: :meth:`add_tokens`, and :meth:`add_layer` of each layer.

        Args:
            members, rows: as for :meth:`add_tokens`.
            indices, probs: (L, C, K) chosen experts and (L, C, N) router probabilities.
        """
        self.add_tokens(members, rows)
        for m, (chosen, layer) in enumerate(zip(indices, probs, strict=True)):
            self.add_layer(m, members, rows, chosen, layer)

    def add_tokens(self, members: list[int], rows: Tensor) -> None:
        """Count the C tokens of a batch.

        Args:
            members: the problems of the batch.
            rows: (C,) each token's problem, as its index in ``members``.
        """
        labels = torch.as_tensor(self.labels[members])[rows]
        self._tokens += torch.bincount(labels, minlength=len(self._tokens))

    def add_layer(self, m: int, members: list[int], rows: Tensor, chosen: Tensor, probs: Tensor) -> None:
        """Add MoE layer m of a batch: chosen experts (C, K) and router probabilities (C, N)."""
        experts = probs.shape[-1]
        cell = rows[:, None] * experts + chosen.cpu().long()
        counts = torch.bincount(cell.flatten(), minlength=len(members) * experts)
        self._slots[members, m] = counts.view(len(members), experts).numpy()
        labels = torch.as_tensor(self.labels[members])[rows]  # (C,)
        wide = probs.cpu().double()  # (C, N)
        self._probabilities[m].index_add_(0, labels, wide)
        self._entropy[m] -= torch.special.xlogy(wide, wide).sum()

    def add_up(self, total: Callable[[Tensor], Tensor]) -> None:
        """Take the sums over all processes in place of this one's; ``total`` returns that of a tensor."""
        self._slots = total(torch.from_numpy(self._slots)).numpy()
        self._tokens, self._probabilities = total(self._tokens), total(self._probabilities)
        self._entropy = total(self._entropy)

    def sums(self) -> RoutingSums:
        """Return the sums so far."""
        return RoutingSums(
            self._slots,
            self.labels,
            self._tokens.numpy(),
            self._probabilities.numpy(),
            self._entropy.numpy(),
        )
