"""Streaming of text through a student, keeping only sums of its routing."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from padd_stages.analyze_experts.paths import PathCounter
from padd_stages.analyze_experts.texts import AnalysisText
from padd_stages.lib.data.sequences import micro_batches, pad_rows
from padd_stages.lib.measures.routing import RoutingCounter, RoutingSums
from padd_stages.lib.models.frozen import FrozenModel
from padd_stages.lib.models.moe_adapter import MoEAdapter
from padd_stages.lib.runtime.reporter import SILENT, Reporter


@torch.no_grad()
def sum_routing(
    student: FrozenModel,
    texts: Sequence[AnalysisText],
    subdomains: int,
    *,
    batch_tokens: int,
    reporter: Reporter = SILENT,
) -> tuple[RoutingSums, PathCounter]:
    """Run every text once, in batches of similar length, and sum up the routing of its counted tokens.

    Processes take batches in turn; all return the sums of all, paths counted in the order of the batches. One layer's
    probabilities are held at a time, and of a whole batch the chosen experts alone.

    Args:
        subdomains: S.
        batch_tokens: padded tokens in one forward pass; memory is about that times 30 N + 2 L K bytes.
    """
    adapter, processes = student.loaded.adapter, student.processes
    assert adapter is not None
    labels = [text.subdomain for text in texts]
    counter = RoutingCounter(labels, subdomains, adapter.num_layers, adapter.num_experts)
    paths = PathCounter(adapter.num_layers, adapter.num_experts)
    for members, counts in processes.rounds(micro_batches([len(text) for text in texts], batch_tokens)):
        chosen = None
        if members is not None:
            ids, attention, counted = padded([texts[i] for i in members], student.loaded.pad_id)
            batch = _Batch(counter, adapter, members, *positions(counted)) if counts else None
            with nullcontext() if batch is None else adapter.observe(batch.see):
                student.run_body(ids, attention)
            chosen = None if batch is None else batch.chosen
        for part in processes.gather(chosen):
            if part is not None:
                paths.add(part)
        reporter.advance(processes.world * len(members or ()))  # the others have about as many
    counter.add_up(processes.sum)
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
