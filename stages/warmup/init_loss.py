"""L_init in the warmup loop: student experts activated like the teacher clusters they come from.

Two targets (docs/METHOD.md, section 3): distributions over experts of the whole data set, or of each token. The
formulas are in padd_stages.lib.objectives.expert_init.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from padd_artifacts.artifact import Artifact
from padd_stages.lib.data.sequences import TokenBatch
from padd_stages.lib.models.expert_clusters import ExpertClusters
from padd_stages.lib.models.moe_adapter import MoEAdapter
from padd_stages.lib.models.teacher import TeacherStates
from padd_stages.lib.models.trace import RouterTrace
from padd_stages.lib.objectives.expert_init import init_loss_dataset, init_loss_linear, init_loss_token
from padd_stages.lib.runtime.processes import Processes
from padd_stages.warmup.options import WarmupOptions
from padd_stages.warmup.texts import BatchTotals


class DatasetInit:
    """L_init at the running mean of h_S (L, N), each expert's mean absolute activation, against the target p_T.

    Under top-K routing an expert's mean is over the tokens routed to it. ``share`` is the running share of
    tokens that an expert sees: with it the expected count of a batch is known before its first micro-batch.
    """

    clusters = None  # the teacher's part of the comparison is p_T

    def __init__(
        self, target: Tensor, processes: Processes, *, xi: float, rate: float, active_only: bool
    ) -> None:
        """Start at zero. target: p_T (L, N); rate: a batch's share in the running mean; active_only: top-K routing."""
        self.processes = processes
        self.target, self.xi, self.rate, self.active_only = target, xi, rate, active_only
        self.mean = torch.zeros_like(target)
        self.share = torch.zeros_like(target)
        self.seen = False
        self._sums = torch.zeros_like(target)
        self._counts = torch.zeros_like(target)

    def loss(
        self, trace: RouterTrace, batch: TokenBatch, _: TeacherStates | None, totals: BatchTotals
    ) -> Tensor:
        """Compute the micro-batch's part of L_init at the running mean, linear in its activations."""
        sums = self.observe(trace, batch)
        counts = (self.share * totals.tokens).clamp_min(1.0).to(sums.device)
        mean, target = self.mean.to(sums.device), self.target.to(sums.device)
        return init_loss_linear(mean, sums, target, self.xi, normalizer=counts)[0]

    def observe(self, trace: RouterTrace, batch: TokenBatch) -> Tensor:
        """Add a micro-batch's activations for the running mean and return their sums (L, N), with gradient."""
        real = batch.attention_mask.flatten().bool()
        activations = trace.activations[:, real].float()  # (L, tokens, N) or (L, tokens, K)
        if self.active_only:
            indices = trace.indices[:, real].flatten(1)  # (L, tokens * K)
            zeros = torch.zeros(self.target.shape, device=activations.device)
            sums = zeros.scatter_add(1, indices, activations.flatten(1))
            counts = zeros.scatter_add(1, indices, torch.ones_like(activations.flatten(1))).detach()
        else:
            sums, counts = activations.sum(1), torch.full_like(self.target, float(real.sum()))
        self._sums += sums.detach().cpu()
        self._counts += counts.cpu()
        return sums

    def close_batch(self, totals: BatchTotals) -> float:
        """Move the running means by the whole batch; an expert that saw no token keeps its own.

        Returns:
            L_init at the running mean before the move.
        """
        value = float(init_loss_dataset(self.mean, self.target, self.xi)[0])
        sums, counts = self.processes.sum(torch.stack([self._sums, self._counts]))
        mean = torch.where(counts > 0, sums / counts.clamp_min(1.0), self.mean)
        share = counts / max(totals.tokens, 1)
        rate = self.rate if self.seen else 1.0
        self.mean += rate * (mean - self.mean)
        self.share += rate * (share - self.share)
        self.seen = True
        self._sums.zero_()
        self._counts.zero_()
        return value

    def state(self) -> dict[str, Tensor]:
        """Return the tensors for a checkpoint."""
        return {"init_mean": self.mean, "init_share": self.share}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore a checkpoint's state."""
        self.mean, self.share, self.seen = tensors["init_mean"], tensors["init_share"], True


class TokenInit:
    """L_init by token: mean over comparable response tokens of the KL of experts to clusters; it has no state.

    Both models are read where they predict the token, the positions of L_KD. Under top-K routing the active experts
    alone are compared, both sides renormalised over them.
    """

    def __init__(
        self, clusters: ExpertClusters, processes: Processes, *, xi: float, active_only: bool
    ) -> None:
        """Start at zero; active_only: routing is top-K."""
        self.processes = processes
        self.clusters, self.xi, self.active_only = clusters, xi, active_only
        self._value = 0.0

    def loss(
        self, trace: RouterTrace, batch: TokenBatch, states: TeacherStates | None, totals: BatchTotals
    ) -> Tensor:
        """Compute the micro-batch's part of L_init; ``states`` with the clusters' activations."""
        assert states is not None
        assert states.activations is not None
        chosen = batch.select.flatten().nonzero().squeeze(1)[states.comparable]  # (C,)
        activations = trace.activations[:, chosen]  # (L, C, N) or (L, C, K)
        weight = activations.new_full((len(chosen),), 1 / max(totals.comparable, 1))
        indices = trace.indices[:, chosen] if self.active_only else None
        loss, _ = init_loss_token(activations, states.activations, xi=self.xi, weight=weight, indices=indices)
        self._value += float(loss.detach())
        return loss

    def close_batch(self, _: BatchTotals) -> float:
        """Return L_init of the whole batch."""
        value, self._value = self._value, 0.0
        return self.processes.sum_each({"value": value})["value"]

    def state(self) -> dict[str, Tensor]:
        """Return no tensors: there is no state."""
        return {}

    def restore(self, _: Mapping[str, Tensor]) -> None:
        """Do nothing: there is no state."""


def init_term(
    clusters: Artifact, expert_clusters: ExpertClusters, processes: Processes, options: WarmupOptions
) -> DatasetInit | TokenInit | None:
    """Build the L_init that the options choose; xi is that of the clusters. None for beta 0."""
    xi, active_only = float(clusters.manifest.options["xi"]), options.warmup_routing == "topk"
    if options.beta == 0:
        return None
    if options.init_target == "token":
        return TokenInit(expert_clusters, processes, xi=xi, active_only=active_only)
    tensors = clusters.tensors("student_layers.safetensors")
    layers = range(len(expert_clusters.teacher_layers))
    target = torch.stack([tensors[f"moe.{m}.target"] for m in layers])
    return DatasetInit(target, processes, xi=xi, rate=options.init_ema, active_only=active_only)


def routing_at(adapter: MoEAdapter, routing: str, progress: float) -> AbstractContextManager[None]:
    """Set the routing of the experts at a point of warmup: ``progress`` runs from 0 to 1."""
    if routing == "topk":
        return nullcontext()
    return adapter.uniform(1.0 if routing == "uniform" else max(1.0 - progress, 0.0))
