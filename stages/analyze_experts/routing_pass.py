"""Streaming of text through a student, keeping only sums of its routing."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from padd_stages.analyze_experts.paths import PathCounter
from padd_stages.analyze_experts.texts import AnalysisText
from padd_stages.lib.data.sequences import micro_batches, pad_rows
from padd_stages.lib.measures.routing import RoutingCounter, RoutingSums
from padd_stages.lib.models.moe_adapter import MoEAdapter
from padd_stages.lib.models.policy import run_body
from padd_stages.lib.runtime.reporter import SILENT, Reporter


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
    """Run every text once, in batches of similar length, and sum up the routing of its counted tokens.

    One layer's probabilities are held at a time, and of a whole batch the chosen experts alone.

    Args:
        subdomains: S.
        batch_tokens: padded tokens in one forward pass; memory is about that times 30 N + 2 L K bytes.
    """
    labels = [text.subdomain for text in texts]
    counter = RoutingCounter(labels, subdomains, adapter.num_layers, adapter.num_experts)
    paths = PathCounter(adapter.num_layers, adapter.num_experts)
    for members in micro_batches([len(text) for text in texts], batch_tokens):
        ids, attention, counted = padded([texts[i] for i in members], pad_id)
        batch = _Batch(counter, adapter, members, *positions(counted))
        with adapter.observe(batch.see):
            run_body(model, ids, attention)
        paths.add(batch.chosen)
        reporter.advance(len(members))
    return counter.sums(), paths


class _Batch:
    """Routing counts of a batch, layer by layer; only ``chosen`` (L, C, K) int16 is kept."""

    def __init__(
        self, counter: RoutingCounter, adapter: MoEAdapter, members: list[int], rows: Tensor, where: Tensor
    ) -> None:
        """Register members and rows (:meth:`RoutingCounter.add_tokens`); where: (C,) flat counted positions."""
        counter.add_tokens(members, rows)
        self.chosen = torch.empty(adapter.num_layers, len(rows), adapter.top_k, dtype=torch.int16)
        self._counter, self._rules = counter, [layer.rule for layer in adapter.layers]
        self._members, self._rows, self._where = members, rows, where

    def see(self, m: int, logits: Tensor, indices: Tensor) -> None:
        """Count MoE layer m of the whole batch, padding included: logits (tokens, N), indices (tokens, K)."""
        here = self._where.to(logits.device)
        self.chosen[m] = indices[here]
        probs = self._rules[m].probs(logits[here])
        self._counter.add_layer(m, self._members, self._rows, self.chosen[m], probs)


def padded(texts: Sequence[AnalysisText], pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Right-padded ids (B, T), attention mask (B, T) and counted positions (B, T) bool."""
    ids, attention = pad_rows([text.ids for text in texts], pad_id)
    counted = torch.zeros_like(ids, dtype=torch.bool)
    for row, text in enumerate(texts):
        counted[row, text.first : text.last] = True
    return ids, attention, counted


def positions(counted: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows (C,) and flat positions (C,) of the counted tokens of (B, T)."""
    rows, columns = counted.nonzero(as_tuple=True)
    return rows, rows * counted.shape[1] + columns
