"""Routing of a rollout under the old policy: one block of host memory, written and compared layer by layer."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from padd_stages.lib.data.sequences import TokenBatch
from padd_stages.lib.models.moe_adapter import MoEAdapter
from padd_stages.lib.models.trace import RoutingCallback
from padd_stages.lib.objectives.drift import router_drift, router_shift

TRACE_DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
INDEX_DTYPE = torch.int16  # up to 32,767 experts, at a quarter of what top-K returns
CHUNK = (
    1024  # chosen: tokens whose probabilities exist beside the block at once, half a megabyte of 128 experts
)


@dataclass(frozen=True)
class OldRouting:
    """The old policy's routing at the M response tokens of one micro-batch, on the host.

    Attributes:
        probs: (L, M, N) G, as `--trace-dtype` keeps it.
        indices: (L, M, K) choices.
        error: (M,) the Gamma that rounding alone makes; no Gamma measured against probs is off by more.
        routes: (L, B * T, K) choices at every position that updates replay; None if they do not.
    """

    probs: Tensor
    indices: Tensor
    error: Tensor
    routes: Tensor | None

    def writer(self, adapter: MoEAdapter, batch: TokenBatch) -> RoutingCallback:
        """What `MoEAdapter.observe` calls to fill this in; whole on a GPU once its stream has been waited for."""
        chunks, layers = _chunks(batch), adapter.num_layers
        error = torch.zeros(self.error.shape, device=batch.select.device)

        def see(m: int, logits: Tensor, indices: Tensor) -> None:
            for here, positions in chunks:
                probs = adapter.layers[m].rule.probs(logits[positions])
                kept = probs.to(self.probs.dtype)
                self.probs[m, here].copy_(kept, non_blocking=True)
                self.indices[m, here].copy_(indices[positions].to(INDEX_DTYPE), non_blocking=True)
                if kept.dtype != torch.float32:
                    error[here] += _drift(probs, kept) / layers
            if self.routes is not None:
                self.routes[m].copy_(indices.to(INDEX_DTYPE), non_blocking=True)
            if m == layers - 1:
                self.error.copy_(error, non_blocking=True)

        return see


class RoutingStore:
    """Host memory for the old routing of all response tokens of a rollout, allocated once.

    48 layers x 16,384 tokens x 128 experts are 403 MB in fp32 and half of it in fp16, with 13 MB of choices; a stacked
    or copied trace would double that.
    """

    def __init__(self, adapter: MoEAdapter, tokens: int, dtype: torch.dtype, *, pinned: bool = False) -> None:
        """Allocate; ``pinned`` memory is written by a GPU while it goes on with the next layer."""
        layers = adapter.num_layers
        self._pinned = pinned
        self._probs = torch.empty(layers, tokens, adapter.num_experts, dtype=dtype, pin_memory=pinned)
        self._indices = torch.empty(layers, tokens, adapter.top_k, dtype=INDEX_DTYPE, pin_memory=pinned)
        self._error = torch.zeros(tokens, pin_memory=pinned)
        self._filled = 0

    def part(self, batch: TokenBatch, *, with_routes: bool) -> OldRouting:
        """Return the storage of the next micro-batch: views, to be filled by its forward."""
        layers, _, top_k = self._indices.shape
        here = slice(self._filled, self._filled + batch.targets.numel())
        self._filled = here.stop
        routes = None
        if with_routes:
            size = (layers, batch.select.numel(), top_k)
            routes = torch.empty(size, dtype=INDEX_DTYPE, pin_memory=self._pinned)
        return OldRouting(self._probs[:, here], self._indices[:, here], self._error[here], routes)


class RouterMovement:
    """Movement of the router away from the old policy: means over layers, added up during the forward.

    Attributes:
        gamma: (M,) Gamma of Stage III; carries a gradient where the probabilities do.
        shift: (M,) RSPO's distance, zero unless asked for.
    """

    def __init__(self, old: OldRouting, device: torch.device, *, with_shift: bool) -> None:
        self._old, self._with_shift = old, with_shift
        self.gamma = torch.zeros(old.probs.shape[1], device=device)
        self.shift = torch.zeros_like(self.gamma)

    def add(self, m: int, probs: Tensor, here: slice) -> None:
        """Add the probabilities (c, N) of layer m under the current policy, at the tokens `here` of the M."""
        before, layers = self._old.probs[m, here].to(probs.device), len(self._old.probs)
        self.gamma[here] += _drift(probs, before) / layers
        if self._with_shift:
            indices = self._old.indices[m, here].to(probs.device)
            self.shift[here] += router_shift(probs[None], before[None], indices[None]) / layers

    def listener(self, adapter: MoEAdapter, batch: TokenBatch) -> RoutingCallback:
        """What `MoEAdapter.observe` calls: measures without gradient and keeps no layer."""
        return probs_listener(adapter, batch, self.add)


def probs_listener(
    adapter: MoEAdapter, batch: TokenBatch, add: Callable[[int, Tensor, slice], None]
) -> RoutingCallback:
    """For `MoEAdapter.observe`: calls `add(m, probs, here)` with layer m's (c, N) at the tokens `here` of the M."""
    chunks = _chunks(batch)

    def see(m: int, logits: Tensor, indices: Tensor) -> None:
        for here, positions in chunks:
            add(m, adapter.layers[m].rule.probs(logits[positions]), here)

    return see


def _chunks(batch: TokenBatch) -> list[tuple[slice, Tensor]]:
    """Split the M response tokens: slices of M, and their indices among the B * T positions."""
    positions = batch.select.flatten().nonzero()[:, 0]
    starts = range(0, len(positions), CHUNK)
    return [(slice(start, start + CHUNK), positions[start : start + CHUNK]) for start in starts]


def _drift(probs: Tensor, old_probs: Tensor) -> Tensor:
    """Compute Gamma (c,) of one layer, (c, N) each."""
    return router_drift(probs[None], old_probs.to(probs.device)[None])
