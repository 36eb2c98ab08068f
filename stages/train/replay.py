"""R3, rollout routing replay: the sampler's routes in the old policy's pass and in the updates (docs/METHOD.md, 5)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from padd_stages.lib.models.moe_adapter import NO_ROUTE, MoEAdapter
from padd_stages.lib.models.trace import RoutingCallback
from padd_stages.lib.runtime.processes import Processes


class ReplayCount:
    """Counts, over replayed tokens and layers, where the trainer would have chosen another set of experts."""

    def __init__(self, device: torch.device) -> None:
        self._differing, self._compared = torch.zeros((), device=device), 0

    @contextmanager
    def replaying(self, adapter: MoEAdapter, routes: Tensor, callback: RoutingCallback) -> Iterator[None]:
        """Replay routes (L, tokens, K) in the one forward inside, and hand its routing on."""
        has_route = routes[0, :, 0] != NO_ROUTE

        def see(m: int, logits: Tensor, indices: Tensor) -> None:
            given = has_route.to(logits.device)
            native = adapter.choose(m, logits)[given]
            same = native.sort(-1).values == indices[given].sort(-1).values
            self._differing += (~same.all(-1)).sum()
            self._compared += len(native)
            callback(m, logits, indices)

        with adapter.fixed_routes(routes), adapter.observe(see):
            yield

    def metrics(self, processes: Processes) -> dict[str, float]:
        """Return the share of sets that differ between sampler and trainer; nothing where none was replayed."""
        sums = processes.sum_each({"differing": float(self._differing), "compared": self._compared})
        return {"sampling/routes_differ": sums["differing"] / sums["compared"]} if sums["compared"] else {}
