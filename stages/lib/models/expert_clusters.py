"""The clusters of teacher neurons that a student's experts come from, and their activations."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from padd_artifacts.artifact import Artifact
from padd_stages.lib.models.ffn import FFNActivations, cluster_means


@dataclass(frozen=True)
class ExpertClusters:
    """The cluster that each of a student's L x N experts comes from (docs/METHOD.md, section 2).

    Attributes:
        teacher_layers: (L,) the teacher layer that each MoE layer is mapped to.
        assignments: by teacher layer (d_ff,), the cluster of each neuron.
        expert_to_cluster: (L, N), expert j of MoE layer m comes from cluster expert_to_cluster[m, j].
    """

    teacher_layers: tuple[int, ...]
    assignments: Mapping[int, Tensor]
    expert_to_cluster: Tensor

    @classmethod
    def from_artifact(cls, artifact: Artifact) -> "ExpertClusters":
        """Read a clusters artifact that was made with a student."""
        links = artifact.report["layer_map"]
        layers = tuple(links[str(m)]["teacher_layer"] for m in range(len(links)))
        of_teacher = artifact.tensors("teacher_layers.safetensors")
        of_student = artifact.tensors("student_layers.safetensors")
        return cls(
            layers,
            {layer: of_teacher[f"layer.{layer}.assignment"] for layer in layers},
            torch.stack([of_student[f"moe.{m}.expert_to_cluster"].long() for m in range(len(layers))]),
        )

    @contextmanager
    def record(self, teacher: nn.Module, select: Tensor) -> Iterator[FFNActivations]:
        """Record the teacher's forwards at the C selected of their positions, (B, T) bool; for `by_expert`."""
        where, clusters = select.flatten(), self.expert_to_cluster.shape[1]

        def reduce(layer: int, activations: Tensor) -> Tensor:
            return cluster_means(activations[where.to(activations.device)], self.assignments[layer], clusters)

        with FFNActivations.attach(teacher, list(self.assignments), reduce, inputs=False) as seen:
            yield seen

    def by_expert(self, seen: FFNActivations, device: torch.device) -> Tensor:
        """Return mean |activation| of the cluster that each expert comes from, (L, C, N) fp32, of a `record`."""
        layers = zip(self.teacher_layers, self.expert_to_cluster, strict=True)
        return torch.stack(
            [seen.activations(layer).to(device)[:, order.to(device)] for layer, order in layers]
        )
