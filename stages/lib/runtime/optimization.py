"""AdamW with learning-rate warmup, clipping, and a guard against gradients and updates that teach nothing."""

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from padd_artifacts.errors import PaddError
from padd_stages.lib.compat.torchao import SIGNED, make_adamw_8bit, require_low_bit
from padd_stages.lib.compat.torchao import empty_moments as empty_8bit_moments
from padd_stages.lib.options.shared import OptimizerName
from padd_stages.lib.runtime.processes import Processes
from padd_stages.lib.runtime.sharding import gather, local

ADAM_BETAS = (0.9, 0.95)  # the usual choice for language models
MAX_BROKEN_UPDATES = 5  # in a row; chosen: one bad batch is bad luck, five are a broken run
WATCHED_UPDATES = 10  # chosen: of a run's start, over which too small updates stop it
LEAST_MOVED = 0.1  # chosen: fp32 weights move by 0.9 and more, weights in bf16 at 1e-6 by 0.01
SAMPLED = 4096  # chosen: entries of each parameter that are watched, evenly spaced


def make_optimizer(
    parameters: Iterable[nn.Parameter],
    *,
    learning_rate: float,
    weight_decay: float,
    name: OptimizerName = "adamw",
) -> torch.optim.Optimizer:
    """Build AdamW over the parameters that require gradients, with moments as ``name`` says."""
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    if name == "adamw-8bit":
        return make_adamw_8bit(
            trainable, learning_rate=learning_rate, betas=ADAM_BETAS, weight_decay=weight_decay
        )
    on_gpu = all(parameter.is_cuda for parameter in trainable)
    return torch.optim.AdamW(
        trainable,
        lr=learning_rate,
        betas=ADAM_BETAS,
        weight_decay=weight_decay,
        fused=True if on_gpu else None,
    )


def require_optimizer(name: OptimizerName) -> None:
    """Check that what an optimizer needs is installed.

    Raises:
        UsageError, PaddError: as `require_low_bit`.
    """
    if name == "adamw-8bit":
        require_low_bit()


def empty_moments(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> dict[str, Tensor]:
    """Return zeros in the form in which the optimizer keeps the moments of a parameter, by their names in its state."""
    if isinstance(optimizer, torch.optim.AdamW):
        return {name: torch.zeros_like(parameter) for name in SIGNED}
    return empty_8bit_moments(optimizer, parameter)


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
    """Gradient clipping; updates are skipped when the gradient norm is not finite, and watched for moving weights."""

    def __init__(self, optimizer: torch.optim.Optimizer, max_grad_norm: float, processes: Processes) -> None:
        self.optimizer = optimizer
        self.max_grad_norm = max_grad_norm
        self.processes = processes
        self.broken_in_a_row = 0
        self.skipped = 0
        self.moved: list[float] = []  # of the first updates

    def step(self, learning_rate: float) -> dict[str, float]:
        """Update at the given learning rate.

        Returns:
            ``grad_norm`` before clipping; ``learning_rate``; ``update/moved``, the share of the weights with a gradient
            that the update changed, and ``update/relative``, the root mean square of their change over theirs, both of
            a sample; NaN for an update that was skipped.

        Raises:
            PaddError: too many gradients in a row that are not finite, or the first updates change next to nothing.
        """
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = float(gather(nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)))
        moved = relative = math.nan
        if math.isfinite(norm):
            self.broken_in_a_row = 0
            for group in self.optimizer.param_groups:
                if isinstance(group["lr"], Tensor):  # compiled: another tensor would be compiled anew
                    group["lr"].fill_(learning_rate)
                else:
                    group["lr"] = learning_rate
            watched = _Watched(parameters)
            self.optimizer.step()
            moved, relative = watched.change(self.processes)
            self._check_moved(moved, learning_rate)
        else:
            self.skipped += 1
            self.broken_in_a_row += 1
        self.optimizer.zero_grad(set_to_none=True)
        if self.broken_in_a_row >= MAX_BROKEN_UPDATES:
            raise PaddError(
                f"{self.broken_in_a_row} updates in a row had a gradient that is not finite and were skipped, so the "
                "run stops; start anew with a lower --learning-rate, or look at the problems of these steps."
            )
        return {
            "grad_norm": norm,
            "learning_rate": learning_rate,
            "update/moved": moved,
            "update/relative": relative,
        }

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds, as JSON values."""
        return {"skipped": self.skipped, "broken_in_a_row": self.broken_in_a_row, "moved": self.moved}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a checkpoint's state."""
        self.skipped, self.broken_in_a_row = state["skipped"], state["broken_in_a_row"]
        self.moved = list(state["moved"])

    def _check_moved(self, moved: float, learning_rate: float) -> None:
        if len(self.moved) == WATCHED_UPDATES or math.isnan(moved):
            return
        self.moved.append(moved)
        mean = sum(self.moved) / WATCHED_UPDATES
        if len(self.moved) == WATCHED_UPDATES and mean < LEAST_MOVED:
            raise PaddError(
                f"the first {WATCHED_UPDATES} updates changed {mean:.1%} of the weights that have a gradient, since "
                f"steps of the learning rate {learning_rate:.2g} are lost in the weights' rounding, and next to "
                "nothing would be learnt; raise --learning-rate."
            )


class _Watched:
    """Evenly spaced entries of this process's parts of the parameters that have a gradient, before an update."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._of = [(p, sample_of(p), sample_of(p.grad) != 0) for p in parameters if p.grad is not None]

    @torch.no_grad()
    def change(self, processes: Processes) -> tuple[float, float]:
        """Return the share of entries that changed and the relative root mean square, of all processes; NaN of none."""
        sums = torch.zeros(4, dtype=torch.float64, device=processes.device)
        for parameter, before, has in self._of:
            weight = local(parameter).numel() / max(before.numel(), 1)  # of an entry: those it stands for
            before, after = before[has].double(), sample_of(parameter)[has].double()
            parts = (
                has.sum(),
                (after != before).sum(),
                (after - before).square().sum(),
                before.square().sum(),
            )
            sums += weight * torch.stack([part.double() for part in parts])
        count, moved, change, size = processes.sum(sums).tolist()
        return (
            (moved / count, math.sqrt(change / size) if size else math.nan) if count else (math.nan, math.nan)
        )


def sample_of(tensor: Tensor) -> Tensor:
    """Return evenly spaced entries of this process's part of a tensor, as a flat copy."""
    flat = local(tensor).reshape(-1)
    return flat[:: max(len(flat) // SAMPLED, 1) | 1].clone()  # odd: else all may be of one column
