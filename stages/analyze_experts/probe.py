"""Probe of a sample of tokens on which every expert runs: correlation of experts with each other and with their
clusters, and the routing of each token."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from padd_stages.analyze_experts.routing_pass import padded, positions
from padd_stages.analyze_experts.texts import AnalysisText
from padd_stages.lib.data.alignment import align
from padd_stages.lib.data.sequences import micro_batches
from padd_stages.lib.measures.correlation import CorrelationSums
from padd_stages.lib.models.expert_clusters import ExpertClusters
from padd_stages.lib.models.frozen import FrozenModel
from padd_stages.lib.runtime.reporter import SILENT, Reporter

Floats = NDArray[np.float64]
Ends = Mapping[int, tuple[int, ...]]  # by row, of counted_ends

BATCH_TOKENS = 2048  # chosen: all experts run, so a token takes N / K times the work and L x N numbers


@dataclass(frozen=True)
class TokenRoutes:
    """Routing of C tokens: probs (L, C, N) fp32, the bias included; indices (L, C, K) int16."""

    probs: Tensor
    indices: Tensor


@dataclass(frozen=True)
class ClusterTokens:
    """A text's c counted teacher tokens: the character where each ends, and (L, c, N) fp32 mean |activation| of each
    expert's cluster."""

    ends: tuple[int, ...]
    activations: Tensor


@dataclass(frozen=True)
class Probe:
    """Measurements of the experts on the sample.

    Attributes:
        between: (L, N, N) Pearson correlation over tokens of the experts' mean |activation|.
        with_clusters: (L, N, N) of cluster (row) and expert (column), clusters in the order of the experts that came
            from them; None without a teacher.
        aligned: tokens that teacher and student share, which with_clusters is made of.
        routes: of each token; None unless asked for.
    """

    between: Floats
    with_clusters: Floats | None
    aligned: int
    routes: TokenRoutes | None


@torch.no_grad()
def read_clusters(
    teacher: FrozenModel,
    clusters: ExpertClusters,
    texts: Sequence[AnalysisText],
    ends: Ends,
    *,
    batch_tokens: int,
    reporter: Reporter = SILENT,
) -> dict[int, ClusterTokens]:
    """Run the teacher over its own tokens of the sample; return its clusters' activations by row, in all processes.

    Memory is 4 L N bytes a counted token.
    """
    read: dict[int, ClusterTokens] = {}
    processes = teacher.processes
    for members, counts in processes.rounds(micro_batches([len(text) for text in texts], batch_tokens)):
        if members is None:
            continue
        batch = [texts[i] for i in members]
        ids, attention, counted = padded(batch, teacher.loaded.pad_id)
        with clusters.record(teacher.model, counted) as seen:
            teacher.run_body(ids, attention)
        if not counts:
            continue
        activations = clusters.by_expert(seen, torch.device("cpu"))
        parts = activations.split([text.counted for text in batch], dim=1)
        for text, part in zip(batch, parts, strict=True):
            read[text.row] = ClusterTokens(ends[text.row], part.clone())
        reporter.advance(processes.world * len(members))  # the others have about as many
    return {row: tokens for part in processes.gather(read) for row, tokens in part.items()}


@torch.no_grad()
def probe_experts(
    student: FrozenModel,
    texts: Sequence[AnalysisText],
    *,
    batch_tokens: int,
    keep_routes: bool,
    teacher: Mapping[int, ClusterTokens],
    ends: Ends,
    reporter: Reporter = SILENT,
) -> Probe:
    """Run the student over the sample under its own routing, and all other experts beside it.

    Args:
        keep_routes: whether to keep every token's routing, 4 L N bytes each.
        teacher, ends: results of :func:`read_clusters`, and where the student's tokens end, by row; empty
            without a teacher.
    """
    adapter, processes = student.loaded.adapter, student.processes
    assert adapter is not None
    between = [CorrelationSums(adapter.num_experts) for _ in adapter.layers]
    with_clusters = [CorrelationSums(adapter.num_experts) for _ in adapter.layers]
    kept: list[TokenRoutes] = []
    device = student.model.device
    batches = micro_batches([len(text) for text in texts], min(batch_tokens, BATCH_TOKENS))
    for members, counts in processes.rounds(batches):
        if members is None:
            continue
        batch = [texts[i] for i in members]
        ids, attention, counted = padded(batch, student.loaded.pad_id)
        # A mix of 0 is top-K routing that runs the other experts too, with weight 0.
        with adapter.uniform(0.0), adapter.trace(activations=True) as trace:
            student.run_body(ids, attention)
        if not counts:
            continue
        where = positions(counted)[1].to(device)
        activations = trace.activations[:, where].cpu()  # (L, C, N)
        for sums, layer in zip(between, activations, strict=True):
            sums.add(layer, layer)
        if teacher:
            there, here = _aligned(batch, teacher, ends)
            for sums, first, second in zip(with_clusters, there, activations[:, here], strict=True):
                sums.add(first, second)
        if keep_routes:
            kept.append(
                TokenRoutes(trace.probs[:, where].cpu(), trace.indices[:, where].to("cpu", torch.int16))
            )
        reporter.advance(processes.world * len(members))  # the others have about as many
    for sums in (*between, *with_clusters):
        sums.add_up(processes.sum)
    kept = processes.collect(kept)
    aligned = with_clusters[0].count
    return Probe(
        between=np.stack([sums.correlation() for sums in between]),
        with_clusters=np.stack([s.correlation() for s in with_clusters]) if aligned > 1 else None,
        aligned=aligned,
        routes=_joined(kept) if keep_routes else None,
    )


def _aligned(
    batch: Sequence[AnalysisText], teacher: Mapping[int, ClusterTokens], ends: Ends
) -> tuple[Tensor, Tensor]:
    """Align teacher and student tokens that end at the same character; return the clusters' activations (L, pairs, N)
    and the tokens' positions (pairs,) among the batch's counted ones."""
    parts, places, start = [], [], 0
    for text in batch:
        if text.row in teacher:  # else the teacher's limit cut it off
            tokens = teacher[text.row]
            pairs = torch.from_numpy(align(tokens.ends, ends[text.row]))
            parts.append(tokens.activations[:, pairs[0]])
            places.append(pairs[1] + start)
        start += text.counted
    if not parts:
        some = next(iter(teacher.values())).activations
        return some[:, :0], torch.empty(0, dtype=torch.long)
    return torch.cat(parts, dim=1), torch.cat(places)


def _joined(kept: Sequence[TokenRoutes]) -> TokenRoutes:
    return TokenRoutes(
        torch.cat([routes.probs for routes in kept], dim=1),
        torch.cat([routes.indices for routes in kept], dim=1),
    )
