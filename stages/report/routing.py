"""Streaming text through a student and keeping only sums of how it was routed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from padd_stages.data.sequences import micro_batches
from padd_stages.models.moe import MoEAdapter
from padd_stages.report.paths import PathCounter
from padd_stages.report.specialisation import joint_counts
from padd_stages.report.texts import AnalysisText
from padd_stages.runtime.reporter import SILENT, Reporter


@dataclass(frozen=True)
class RoutingSums:
    """What is kept of a model's routing; its size grows with the problems, not with their tokens.

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
        """(L, N, S) routed slots by expert and subdomain."""
        return joint_counts(self.slots, self.labels, len(self.tokens))

    @property
    def mean_probabilities(self) -> NDArray[np.float64]:
        """(L, S, N) mean router probabilities; zero rows for subdomains without tokens."""
        return self.probabilities / np.maximum(self.tokens, 1)[None, :, None]

    @property
    def mean_entropy(self) -> NDArray[np.float64]:
        """(L,) mean over tokens of the routing entropy over log N: 1 is an undecided router."""
        return self.entropy / (self.tokens.sum() * np.log(self.slots.shape[-1]))


class RoutingCounter:
    """Adds up :class:`RoutingSums`, batch by batch."""

    def __init__(self, labels: Sequence[int], subdomains: int, layers: int, experts: int) -> None:
        """labels: (B,) subdomain of each problem; subdomains S, layers L, experts N."""
        self.labels = np.array(labels, dtype=np.int64)
        self._slots = np.zeros((len(labels), layers, experts), dtype=np.int64)
        self._tokens = torch.zeros(subdomains, dtype=torch.long)
        self._probabilities = torch.zeros(layers, subdomains, experts, dtype=torch.float64)
        self._entropy = torch.zeros(layers, dtype=torch.float64)

    def add(self, members: list[int], rows: Tensor, indices: Tensor, probs: Tensor) -> None:
        """Add the C counted tokens of a batch of problems: :meth:`add_tokens`, and :meth:`add_layer` of each layer.

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
            rows: (C,) each token's problem, as its place in ``members``.
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

    def sums(self) -> RoutingSums:
        """What has been added so far."""
        return RoutingSums(
            self._slots,
            self.labels,
            self._tokens.numpy(),
            self._probabilities.numpy(),
            self._entropy.numpy(),
        )


@torch.no_grad()
def sum_routing(
    model: Any,
    adapter: MoEAdapter,
    texts: Sequence[AnalysisText],
    subdomains: int,
    *,
    pad_id: int,
    batch_tokens: int,
    reporter: Reporter = SILENT,
) -> tuple[RoutingSums, PathCounter]:
    """Run every text once, in batches of like length, and sum up the routing of its counted tokens.

    One layer's probabilities are held at a time, and of a whole batch the chosen experts alone.

    Args:
        subdomains: S.
        batch_tokens: padded tokens in one forward pass; memory is about that times 30 N + 2 L K bytes.
    """
    labels = [text.subdomain for text in texts]
    counter = RoutingCounter(labels, subdomains, adapter.num_layers, adapter.num_experts)
    paths = PathCounter(adapter.num_layers, adapter.num_experts)
    device = next(model.parameters()).device
    for members in micro_batches([len(text) for text in texts], batch_tokens):
        ids, attention, counted = padded([texts[i] for i in members], pad_id)
        batch = _Batch(counter, adapter, members, *positions(counted))
        with adapter.watch(batch.see):
            # the body alone: logits over the vocabulary are not needed
            model.base_model(input_ids=ids.to(device), attention_mask=attention.to(device), use_cache=False)
        paths.add(batch.chosen)
        reporter.advance(len(members))
    return counter.sums(), paths


class _Batch:
    """Counts a batch's routing as its layers pass by; ``chosen`` (L, C, K) int16 is what it keeps."""

    def __init__(
        self, counter: RoutingCounter, adapter: MoEAdapter, members: list[int], rows: Tensor, where: Tensor
    ) -> None:
        """members, rows: as for :meth:`RoutingCounter.add_tokens`; where: (C,) flat positions of the counted tokens."""
        counter.add_tokens(members, rows)
        self.chosen = torch.empty(adapter.num_layers, len(rows), adapter.top_k, dtype=torch.int16)
        self._counter, self._rules = counter, [layer.rule for layer in adapter.layers]
        self._members, self._rows, self._where = members, rows, where

    def see(self, m: int, logits: Tensor, indices: Tensor) -> None:
        """MoE layer m of the whole batch, padding included: logits (tokens, N), indices (tokens, K)."""
        here = self._where.to(logits.device)
        self.chosen[m] = indices[here]
        probs = self._rules[m].probs(logits[here])
        self._counter.add_layer(m, self._members, self._rows, self.chosen[m], probs)


def padded(texts: Sequence[AnalysisText], pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Right-padded ids (B, T), attention mask (B, T) and counted positions (B, T) bool."""
    width = max(len(text) for text in texts)
    ids = torch.full((len(texts), width), pad_id, dtype=torch.long)
    attention = torch.zeros_like(ids)
    counted = torch.zeros_like(ids, dtype=torch.bool)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(text.ids)
        attention[row, : len(text)] = 1
        counted[row, text.first : text.last] = True
    return ids, attention, counted


def positions(counted: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (C,) and flat positions (C,) of the counted tokens of (B, T)."""
    rows, columns = counted.nonzero(as_tuple=True)
    return rows, rows * counted.shape[1] + columns
