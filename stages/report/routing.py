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
) -> RoutingSums:
    """Run every text once, in batches of like length, and sum up the routing of its counted tokens.

    Args:
        subdomains: S.
        batch_tokens: padded tokens in one forward pass; memory is about that times L x N x 16 bytes.
    """
    shape = (adapter.num_layers, adapter.num_experts)
    slots = np.zeros((len(texts), *shape), dtype=np.int64)
    probabilities = torch.zeros(shape[0], subdomains, shape[1], dtype=torch.float64)
    entropy = torch.zeros(shape[0], dtype=torch.float64)
    labels = np.array([text.subdomain for text in texts], dtype=np.int64)
    device = next(model.parameters()).device
    for batch in micro_batches([len(text) for text in texts], batch_tokens):
        ids, attention, counted = _padded([texts[i] for i in batch], pad_id)
        with adapter.trace() as trace:
            # the body alone: logits over the vocabulary are not needed
            model.base_model(input_ids=ids.to(device), attention_mask=attention.to(device), use_cache=False)
        rows, where = _positions(counted)
        chosen, probs = trace.indices[:, where.to(device)].cpu(), trace.probs
        slots[batch] = _tally(chosen, rows, len(batch), shape[1]).numpy()
        one_hot = torch.nn.functional.one_hot(
            torch.as_tensor(labels[batch])[rows], subdomains
        ).double()  # (C, S)
        for m in range(shape[0]):
            layer = probs[m, where.to(device)].cpu().double()  # (C, N)
            probabilities[m] += one_hot.T @ layer
            entropy[m] -= torch.special.xlogy(layer, layer).sum()
        reporter.advance(len(batch))
    counts = np.array([text.last - text.first for text in texts], dtype=np.int64)
    tokens = np.bincount(labels, weights=counts, minlength=subdomains).astype(np.int64)
    return RoutingSums(slots, labels, tokens, probabilities.numpy(), entropy.numpy())


def _padded(texts: Sequence[AnalysisText], pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
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


def _positions(counted: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (C,) and flat positions (C,) of the counted tokens of (B, T)."""
    rows, columns = counted.nonzero(as_tuple=True)
    return rows, rows * counted.shape[1] + columns


def _tally(chosen: Tensor, rows: Tensor, batch: int, experts: int) -> Tensor:
    """(L, C, K) chosen experts and (C,) rows -> (batch, L, N) counts."""
    layers = chosen.shape[0]
    cell = (rows[None, :, None] * layers + torch.arange(layers)[:, None, None]) * experts + chosen
    return torch.bincount(cell.flatten(), minlength=batch * layers * experts).view(batch, layers, experts)
