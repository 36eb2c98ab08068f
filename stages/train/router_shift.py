"""Router-shift of one rollout's updates, Stage IV's bias included (docs/METHOD.md, section 8).

The formula is in padd_stages.lib.objectives.drift, which Stage III weighs the loss by; here it is only measured.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from padd_stages.lib.models.loading import LanguageModel
from padd_stages.lib.models.policy import Head
from padd_stages.lib.objectives.drift import router_l1
from padd_stages.lib.runtime.processes import Processes
from padd_stages.train.old_policy import OldPass
from padd_stages.train.old_routing import probs_listener


@dataclass(frozen=True)
class RouterShift:
    """Router-shift over all response tokens of a rollout: count, mean and 101 quantiles, at 0, 1, ..., 100 %."""

    tokens: int
    mean: float
    quantiles: list[float]

    @property
    def metrics(self) -> dict[str, float]:
        """For metrics.jsonl."""
        named = {f"router_shift/p{q:02d}": self.quantiles[q] for q in (5, 50, 95)}
        return {"router_shift/mean": self.mean} | named


@torch.no_grad()
def measure_shift(
    policy: nn.Module, student: LanguageModel, passes: list[OldPass], processes: Processes
) -> RouterShift:
    """Run one more forward over the rollout and compare it with the old policy's routing in the passes."""
    mine = [_shift(policy, student, old) for old in passes]
    values = torch.cat(processes.gather(torch.cat(mine).cpu())).sort().values
    places = torch.linspace(0, values.numel() - 1, 101).round().long()
    return RouterShift(values.numel(), float(values.mean()), [round(x, 6) for x in values[places].tolist()])


def _shift(policy: nn.Module, student: LanguageModel, old: OldPass) -> Tensor:
    """Compute Router-shift (M,) of one micro-batch."""
    adapter, routing, batch = student.adapter, old.routing, old.batch
    assert adapter is not None  # asked of MoE students only
    assert routing is not None
    total = torch.zeros_like(old.logprobs, dtype=torch.float32)

    def add(m: int, probs: Tensor, here: slice) -> None:
        before = routing.probs[m, here].to(probs.device)
        total[here] += router_l1(probs[None], before[None]) / adapter.num_layers

    with adapter.observe(probs_listener(adapter, batch, add)):
        policy(batch.input_ids, batch.attention_mask, batch.select, _no_output)
    return total


def _no_output(hidden: Tensor, head: Head) -> Tensor:
    """Return an empty loss: only the routing of the forward is used."""
    return hidden.new_zeros(())
