"""How much of an update is signal: the cosine between the gradients of two halves of a rollout (docs/METHOD.md, 4)."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from padd_stages.lib.runtime.optimization import sample_of
from padd_stages.lib.runtime.processes import Processes
from padd_stages.lib.runtime.sharding import local


class HalfGradients:
    """The gradients of two halves while they add up, at evenly spaced entries of each parameter.

    Whole copies would cost a gradient's memory; of millions of entries a few thousand a tensor say as much.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], processes: Processes) -> None:
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._processes = processes
        self._first: Tensor | None = None

    def half(self) -> None:
        """Remember what the first half has added up to."""
        self._first = self._now()

    def cosine(self) -> float:
        """Return the cosine, once the second half is there too and before processes add theirs up; NaN for a zero."""
        assert self._first is not None
        first, both = self._first, self._now()
        if not self._processes.shards:  # each process has a part of the sum over responses
            first, both = self._processes.sum(first), self._processes.sum(both)
        second = both - first
        weights = torch.cat(
            [
                torch.full_like(sample_of(p.detach()), local(p).numel(), dtype=torch.float64)
                / max(sample_of(p.detach()).numel(), 1)
                for p in self._parameters
            ]
        )
        products = torch.stack(
            [(weights * a * b).sum() for a, b in ((first, second), (first, first), (second, second))]
        )
        if self._processes.shards:  # each has a part of the entries
            products = self._processes.sum(products)
        dot, one, other = products.tolist()
        return dot / math.sqrt(one * other) if one > 0 and other > 0 else math.nan

    @torch.no_grad()
    def _now(self) -> Tensor:
        return torch.cat(
            [
                sample_of(p.detach() if p.grad is None else p.grad).double() * (p.grad is not None)
                for p in self._parameters
            ]
        )
