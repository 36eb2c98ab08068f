"""L_init in the warmup loop: student experts as loud as the teacher clusters they come from."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from padd_stages.models.moe import MoEAdapter
from padd_stages.objectives.routing import init_loss_linear


class ExpertActivations:
    """Running mean over tokens of each expert's mean absolute activation, h_S (L, N), and its loss.

    Under top-K routing an expert's mean is over the tokens routed to it. ``share`` is the running share of
    tokens that an expert sees: with it the expected count of a batch is known before its first micro-batch.
    """

    def __init__(self, adapter: MoEAdapter, target: Tensor, *, xi: float, rate: float) -> None:
        self.adapter, self.target, self.xi, self.rate = adapter, target, xi, rate
        self.mean = torch.zeros_like(target)
        self.share = torch.zeros_like(target)
        self.seen = False
        self._sums = torch.zeros_like(target)
        self._counts = torch.zeros_like(target)

    def sums(self, trace: Any, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of activations (with gradient) and number of tokens, per layer and expert, of one forward.

        Returns:
            Two tensors (L, N).
        """
        real = attention_mask.flatten().bool()
        activations = trace.activations[:, real].float()  # (L, tokens, N) or (L, tokens, K)
        if activations.shape[-1] == self.adapter.num_experts:
            return activations.sum(1), torch.full_like(self.target, float(real.sum()))
        indices = trace.indices[:, real].flatten(1)  # (L, tokens * K)
        zeros = torch.zeros(self.target.shape, device=activations.device)
        total = zeros.scatter_add(1, indices, activations.flatten(1))
        counts = zeros.scatter_add(1, indices, torch.ones_like(activations.flatten(1)))
        return total, counts.detach()

    def add(self, sums: Tensor, counts: Tensor) -> None:
        """Keep a micro-batch's sums for the running mean."""
        self._sums += sums.detach().cpu()
        self._counts += counts.detach().cpu()

    def loss(self, sums: Tensor, batch_tokens: int) -> tuple[Tensor, Tensor]:
        """L_init at the running mean, linear in this micro-batch; and its value there (L,)."""
        counts = (self.share * batch_tokens).clamp_min(1.0).to(sums.device)
        loss, metrics = init_loss_linear(
            self.mean.to(sums.device), sums, self.target.to(sums.device), self.xi, normalizer=counts
        )
        return loss, metrics["init_kl"]

    def close_batch(self, batch_tokens: int) -> None:
        """Move the running means by the whole batch; an expert that saw no token keeps its own."""
        saw = self._counts > 0
        mean = torch.where(saw, self._sums / self._counts.clamp_min(1.0), self.mean)
        share = self._counts / max(batch_tokens, 1)
        rate = self.rate if self.seen else 1.0
        self.mean += rate * (mean - self.mean)
        self.share += rate * (share - self.share)
        self.seen = True
        self._sums.zero_()
        self._counts.zero_()

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {"init_mean": self.mean, "init_share": self.share}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take a checkpoint's state back."""
        self.mean, self.share, self.seen = tensors["init_mean"], tensors["init_share"], True


def routing_at(adapter: MoEAdapter, routing: str, progress: float) -> AbstractContextManager[None]:
    """The routing of the experts at a point of warmup: ``progress`` runs from 0 to 1."""
    if routing == "topk":
        return nullcontext()
    return adapter.uniform(1.0 if routing == "uniform" else max(1.0 - progress, 0.0))
