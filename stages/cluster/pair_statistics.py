"""Sums over D_A tokens for the targets, the matching and the router map. No token is kept."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from padd_stages.cluster.aligned_texts import AlignedText, batches, flat_positions
from padd_stages.cluster.balanced import random_balanced
from padd_stages.cluster.layer_clusters import profile_file
from padd_stages.lib.data.sequences import pad_rows
from padd_stages.lib.data.subdomains import SUBDOMAINS
from padd_stages.lib.measures.correlation import CorrelationSums
from padd_stages.lib.measures.ridge import RidgeSums
from padd_stages.lib.models.ffn import FFNActivations, cluster_means
from padd_stages.lib.models.frozen import FrozenModel
from padd_stages.lib.runtime.reporter import Reporter
from padd_stages.lib.runtime.seeds import generator_for


@dataclass(frozen=True)
class LayerLink:
    """Layers that belong together: the student's MoE layer and decoder layer, and the teacher layer read."""

    moe: int
    student: int
    teacher: int


@dataclass(frozen=True)
class PairStates:
    """One batch. Teacher layer t: activations (tokens, N) of its clusters at every teacher token that stands for text.

    random (tokens, N) is the same of random clusters. At the tokens that stand side by side, ``pairs`` of them: aligned
    (pairs, N) and teacher_inputs (pairs, d_T) by teacher layer, student_inputs (L, pairs, d_S), probs (L, pairs, N).
    The inputs stay on their model's device.
    """

    subdomains: Tensor
    activations: dict[int, Tensor]
    random: dict[int, Tensor]
    aligned: dict[int, Tensor]
    teacher_inputs: dict[int, Tensor]
    student_inputs: Tensor
    probs: Tensor


class ModelPair:
    """Teacher and student, run on the same texts."""

    def __init__(
        self,
        teacher: FrozenModel,
        student: FrozenModel,
        assignments: Mapping[int, NDArray[np.int32]],
        seed: int,
    ) -> None:
        """Hold ``assignments`` (d_ff,) by teacher layer; ``seed`` draws the random clusters beside them."""
        assert student.loaded.adapter is not None
        self.teacher, self.student, self.adapter = teacher, student, student.loaded.adapter
        self.processes, self.device = student.processes, teacher.model.device
        self.clusters = self.adapter.num_experts
        self.assignments = {
            layer: torch.from_numpy(np.stack([own, self._random(len(own), seed, layer)])).to(self.device)
            for layer, own in assignments.items()
        }

    def _random(self, neurons: int, seed: int, layer: int) -> NDArray[np.int32]:
        drawn = generator_for(seed, "selectivity", layer).integers(2**31)
        return random_balanced(neurons, self.clusters, int(drawn))

    def states(self, texts: list[AlignedText], token_budget: int, reporter: Reporter) -> Iterator[PairStates]:
        """Run one forward of each model a batch and yield the states of this process's batches."""
        for group, counts in self.processes.rounds(list(batches(texts, token_budget))):
            if group is None:
                continue
            states = self._forward(group)
            if counts:
                yield states
                reporter.advance(len(group) * self.processes.world)  # the others have about as many

    @torch.no_grad()
    def _forward(self, group: Sequence[AlignedText]) -> PairStates:
        first = pad_rows([text.teacher.ids for text in group], self.teacher.loaded.pad_id)
        second = pad_rows([text.student.ids for text in group], self.student.loaded.pad_id)

        def reduce(layer: int, activations: Tensor) -> Tensor:
            """Average over the layer's clusters and over its random ones, (2, tokens, N)."""
            return torch.stack(
                [cluster_means(activations, a, self.clusters) for a in self.assignments[layer]]
            )

        with FFNActivations.attach(self.teacher.model, list(self.assignments), reduce) as ffn:
            self.teacher.run_body(*first)
        with self.adapter.trace(inputs=True) as trace:
            self.student.run_body(*second)
        width, device = first[0].shape[1], self.device
        everywhere = flat_positions([text.teacher.text_positions for text in group], width).to(device)
        there = flat_positions([text.pairs[0] for text in group], width).to(device)
        here = flat_positions([text.pairs[1] for text in group], second[0].shape[1])
        here = here.to(self.student.model.device)
        return PairStates(
            subdomains=torch.tensor([text.subdomain for text in group for _ in text.teacher.text_positions]),
            activations={layer: ffn.activations(layer)[0, everywhere].cpu() for layer in self.assignments},
            random={layer: ffn.activations(layer)[1, everywhere].cpu() for layer in self.assignments},
            aligned={layer: ffn.activations(layer)[0, there].cpu() for layer in self.assignments},
            teacher_inputs={layer: ffn.inputs(layer)[there] for layer in self.assignments},
            student_inputs=trace.inputs[:, here],
            probs=trace.probs[:, here].cpu(),
        )


class TargetSums:
    """Sums for h_j of each teacher layer, overall and per subdomain: (S, N) sums and (S,) counts in fp64."""

    def __init__(self, layers: Sequence[int], clusters: int) -> None:
        subdomains = len(SUBDOMAINS)
        self.sums = {t: torch.zeros(subdomains, clusters, dtype=torch.float64) for t in layers}
        self.counts = torch.zeros(subdomains, dtype=torch.float64)

    def add(self, subdomains: Tensor, activations: Mapping[int, Tensor]) -> None:
        """Add a batch's teacher tokens: subdomains (tokens,), activations (tokens, N) by teacher layer."""
        self.counts += torch.bincount(subdomains, minlength=len(self.counts))
        for layer, values in activations.items():
            self.sums[layer].index_add_(0, subdomains, values.double())

    def add_up(self, total: Callable[[Tensor], Tensor]) -> None:
        """Take the sums over all processes in place of this one's; ``total`` returns that of a tensor."""
        self.counts = total(self.counts)
        self.sums = {layer: total(sums) for layer, sums in self.sums.items()}

    def overall(self, layer: int) -> Tensor:
        """Return h (N,) over all tokens."""
        return self.sums[layer].sum(dim=0) / self.counts.sum()

    def by_subdomain(self, layer: int) -> Tensor:
        """Return h (S', N) of the subdomains that have tokens, in the order of :attr:`subdomains`."""
        there = self.counts > 0
        return self.sums[layer][there] / self.counts[there, None]

    @property
    def subdomains(self) -> list[str]:
        """Names of the subdomains that have tokens."""
        return [name for name, count in zip(SUBDOMAINS, self.counts) if count > 0]


class LinkSums:
    """Sums of one MoE layer over the texts to fit on; ``ridge`` only while a map is to be fitted."""

    def __init__(self, link: LayerLink, clusters: int, ridge: RidgeSums | None) -> None:
        self.link = link
        self.correlation = CorrelationSums(clusters)
        self.ridge = ridge

    def add(self, states: PairStates) -> None:
        """Add a batch's aligned tokens."""
        moe, teacher = self.link.moe, self.link.teacher
        self.correlation.add(states.aligned[teacher], states.probs[moe])
        if self.ridge is not None:
            self.ridge.add(states.student_inputs[moe], states.teacher_inputs[teacher])

    def add_up(self, total: Callable[[Tensor], Tensor]) -> None:
        """Take the sums over all processes in place of this one's; ``total`` returns that of a tensor."""
        self.correlation.add_up(total)
        if self.ridge is not None:
            self.ridge.add_up(total)


def most_active_expert(activations: Tensor, h: Tensor, expert_of: Tensor) -> Tensor:
    """Return the expert (tokens,) of the cluster most active on each token, relative to its own mean.

    activations (tokens, N) and h (N,) of clusters; expert_of (N,) the expert of each cluster. Without the division
    by h one loud cluster would win on every token.
    """
    return expert_of[(activations.double() / h.clamp_min(1e-30)).argmax(dim=-1)]


def write_profiles(
    teacher: FrozenModel, texts: list[AlignedText], layers: Sequence[int], tokens: int, folder: Path | None
) -> None:
    """Write |activation| of every neuron on up to ``tokens`` teacher tokens, one file a layer, none kept in memory.

    All processes run it, since a forward may be a collective; those with no ``folder`` write nothing.
    """
    left, model = tokens, teacher.model
    with ExitStack() as stack:
        files = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            files = {layer: stack.enter_context(profile_file(folder, layer).open("wb")) for layer in layers}
        for text in texts:
            if left == 0:
                break
            places = torch.from_numpy(text.teacher.text_positions[:left]).to(model.device)
            with torch.no_grad(), FFNActivations.attach(model, layers) as ffn:
                teacher.run_body(*pad_rows([text.teacher.ids], teacher.loaded.pad_id))
                for layer, file in files.items():
                    file.write(ffn.activations(layer)[places].float().cpu().numpy().tobytes())
            left -= len(places)
