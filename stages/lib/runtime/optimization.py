"""AdamW with learning-rate warmup, clipping, and a guard against gradients that are not finite."""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from padd_artifacts.errors import PaddError
from padd_stages.lib.runtime.sharding import gather

ADAM_BETAS = (0.9, 0.95)  # the usual choice for language models
MAX_BROKEN_UPDATES = 5  # in a row; chosen: one bad batch is bad luck, five are a broken run


def make_optimizer(
    parameters: Iterable[nn.Parameter], *, learning_rate: float, weight_decay: float
) -> torch.optim.AdamW:
    """Build AdamW over the parameters that require gradients."""
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    return torch.optim.AdamW(trainable, lr=learning_rate, betas=ADAM_BETAS, weight_decay=weight_decay)


def learning_rate_at(
    step: int, *, steps: int, peak: float, warmup_steps: int, schedule: Literal["linear", "constant"]
) -> float:
    """Return the learning rate of a step: linear warmup to the peak, then decay to zero at ``steps``, or none.

    Without warmup Adam's first updates damage a student.
    """
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return peak
    return peak * max(steps - step, 1) / max(steps - warmup_steps, 1)


class UpdateGuard:
    """Gradient clipping and updates that are skipped when the gradient norm is not finite."""

    def __init__(self, optimizer: torch.optim.Optimizer, max_grad_norm: float) -> None:
        self.optimizer = optimizer
        self.max_grad_norm = max_grad_norm
        self.broken_in_a_row = 0
        self.skipped = 0

    def step(self, learning_rate: float) -> Tensor:
        """Update at the given learning rate; return the gradient norm before clipping.

        Raises:
            PaddError: too many gradients in a row that are not finite.
        """
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = gather(nn.utils.clip_grad_norm_(parameters, self.max_grad_norm))
        if torch.isfinite(norm):
            self.broken_in_a_row = 0
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            self.optimizer.step()
        else:
            self.skipped += 1
            self.broken_in_a_row += 1
        self.optimizer.zero_grad(set_to_none=True)
        if self.broken_in_a_row >= MAX_BROKEN_UPDATES:
            raise PaddError(
                f"{self.broken_in_a_row} updates in a row had a gradient that is not finite and were skipped, so the "
                "run stops; start anew with a lower --learning-rate, or look at the problems of these steps."
            )
        return norm
