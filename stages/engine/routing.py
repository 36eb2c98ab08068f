"""How a rollout routed under the old policy: one block of host memory, written and compared layer by layer."""

from dataclasses import dataclass

import torch
from torch import Tensor

from padd_stages.data.sequences import TokenBatch
from padd_stages.models.moe import MoEAdapter
from padd_stages.models.trace import Listener
from padd_stages.objectives.drift import router_drift, router_shift

TRACE_DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
INDEX_DTYPE = torch.int16  # up to 32,767 experts, at a quarter of what top-K returns


@dataclass(frozen=True)
class OldRouting:
    """The old policy's routing at the M response tokens of one micro-batch, on the host.

    Attributes:
        probs: (L, M, N) G, as `--trace-dtype` keeps it.
        indices: (L, M, K) choices.
        error: (M,) the Gamma that rounding alone makes; no Gamma measured against probs is off by more.
        routes: (L, B * T, K) choices at every position, for `--router-replay old` only.
    """

    probs: Tensor
    indices: Tensor
    error: Tensor
    routes: Tensor | None

    def writer(self, adapter: MoEAdapter, batch: TokenBatch) -> Listener:
        """What `MoEAdapter.watch` calls to fill this in."""
        chosen = batch.select.flatten()

        def see(m: int, logits: Tensor, indices: Tensor) -> None:
            probs = adapter.layers[m].rule.probs(logits[chosen])
            self.probs[m].copy_(probs)
            self.indices[m].copy_(indices[chosen])
            if self.routes is not None:
                self.routes[m].copy_(indices)
            if self.probs.dtype != torch.float32:
                self.error.add_(_drift(probs, self.probs[m]).cpu() / adapter.num_layers)

        return see


class RoutingStore:
    """Room for the old routing of all response tokens of a rollout, allocated once.

    48 layers x 16,384 tokens x 128 experts are 403 MB in fp32 and half of it in fp16, with 13 MB of choices; a stacked
    or copied trace would double that.
    """

    def __init__(self, adapter: MoEAdapter, tokens: int, dtype: torch.dtype) -> None:
        layers = adapter.num_layers
        self._probs = torch.empty(layers, tokens, adapter.num_experts, dtype=dtype)
        self._indices = torch.empty(layers, tokens, adapter.top_k, dtype=INDEX_DTYPE)
        self._error = torch.zeros(tokens)
        self._filled = 0

    def part(self, batch: TokenBatch, *, with_routes: bool) -> OldRouting:
        """The room of the next micro-batch: views, to be filled by its forward."""
        layers, _, top_k = self._indices.shape
        here = slice(self._filled, self._filled + batch.targets.numel())
        self._filled = here.stop
        routes = None
        if with_routes:
            routes = torch.empty(layers, batch.select.numel(), top_k, dtype=INDEX_DTYPE)
        return OldRouting(self._probs[:, here], self._indices[:, here], self._error[here], routes)


class Movement:
    """How far the router has moved from the old policy: means over layers, added up as the forward passes them.

    Attributes:
        gamma: (M,) Gamma of Stage III; carries a gradient where the probabilities do.
        shift: (M,) RSPO's distance, zero unless asked for.
    """

    def __init__(self, old: OldRouting, *, with_shift: bool) -> None:
        self._old, self._with_shift = old, with_shift
        self.gamma = torch.zeros(old.probs.shape[1])
        self.shift = torch.zeros(old.probs.shape[1])

    def add(self, m: int, probs: Tensor) -> None:
        """Layer m's probabilities (M, N) under the current policy."""
        before, layers = self._old.probs[m].to(probs.device), len(self._old.probs)
        self.gamma = self.gamma.to(probs.device) + _drift(probs, before) / layers
        if self._with_shift:
            indices = self._old.indices[m].to(probs.device)
            distance = router_shift(probs[None], before[None], indices[None])
            self.shift = self.shift.to(probs.device) + distance / layers

    def listener(self, adapter: MoEAdapter, batch: TokenBatch) -> Listener:
        """What `MoEAdapter.watch` calls: measures without gradient and keeps no layer."""
        chosen = batch.select.flatten()
        return lambda m, logits, _: self.add(m, adapter.layers[m].rule.probs(logits[chosen]))


def _drift(probs: Tensor, old_probs: Tensor) -> Tensor:
    """Gamma (M,) of one layer, (M, N) each."""
    return router_drift(probs[None], old_probs.to(probs.device)[None])
