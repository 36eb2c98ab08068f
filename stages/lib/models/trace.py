"""The routing of one forward, as the MoE adapter records it."""

from collections.abc import Callable

import torch
from torch import Tensor

from padd_artifacts.errors import PaddError
from padd_stages.lib.models.router_rules import Rule

SECOND_FORWARD = "A trace holds one forward, and a second one ran inside it; open a trace for each."
RoutingCallback = Callable[[int, Tensor, Tensor], None]


class RouterObserver:
    """The routing of one forward, handed to a callback layer by layer and not kept.

    `callback(m, logits, indices)` gets logits (tokens, N) fp32 without gradient and indices (tokens, K), as in
    RouterTrace.
    """

    def __init__(self, layers: int, callback: RoutingCallback) -> None:
        self._layers, self._callback = layers, callback
        self._seen: set[int] = set()

    def record_routing(self, m: int, logits: Tensor, indices: Tensor, hidden: Tensor) -> None:
        """Hand layer m on; PaddError on a second forward. Called by the adapter at the layer's router."""
        if m in self._seen:
            raise PaddError(SECOND_FORWARD)
        self._seen.add(m)
        self._callback(m, logits.detach(), indices)

    def close(self) -> None:
        """Raise PaddError when the forward did not reach every layer."""
        if len(self._seen) != self._layers:
            raise PaddError(
                f"The forward reached {len(self._seen)} of {self._layers} MoE layers, so its routing "
                "is not whole; run one whole forward inside the context."
            )


class RouterTrace:
    """Routing of one forward; tokens are all B * T positions in order, padding included.

    Readable once the forward is done, stacked over MoE layers:
    logits (L, tokens, N) fp32, the bias included in logits mode; probs (L, tokens, N) fp32, G of docs/METHOD.md,
    section 0; indices (L, tokens, K); inputs (L, tokens, D) if enabled; activations, if enabled: (L, tokens, K)
    aligned with indices, or (L, tokens, N) under uniform routing. PaddError when the forward did not reach every layer.
    """

    def __init__(self, rules: list[Rule], *, inputs: bool, grad: bool) -> None:
        self._rules, self._wants_inputs, self._grad = rules, inputs, grad
        self._logits: dict[int, Tensor] = {}
        self._indices: dict[int, Tensor] = {}
        self._inputs: dict[int, Tensor] = {}
        self._activations: dict[int, Tensor] = {}
        self._probs: Tensor | None = None

    def record_routing(self, m: int, logits: Tensor, indices: Tensor, hidden: Tensor) -> None:
        """Keep layer m, as the adapter calls it; PaddError on a second forward, or on `grad` without gradients."""
        if m in self._logits:
            raise PaddError(SECOND_FORWARD)
        if self._grad and not torch.is_grad_enabled():
            raise PaddError(
                "A trace with gradients was opened where autograd is off, so it would hold none; leave no_grad, "
                "and checkpoint with use_reentrant=False."
            )
        self._logits[m] = self._kept(logits)
        self._indices[m] = indices
        if self._wants_inputs:
            self._inputs[m] = self._kept(hidden)

    def record_activations(self, m: int, activations: Tensor) -> None:
        """Keep the activations of layer m's experts, as the adapter calls it."""
        self._activations[m] = self._kept(activations)

    @property
    def logits(self) -> Tensor:
        return self._stacked(self._logits, "logits")

    @property
    def probs(self) -> Tensor:
        # Made here and not in the hook: under gradient checkpointing a hook must save the same tensors with and
        # without a trace.
        if self._probs is None:
            self._probs = torch.stack(
                [rule.probs(row) for rule, row in zip(self._rules, self.logits, strict=True)]
            )
        return self._probs

    @property
    def indices(self) -> Tensor:
        return self._stacked(self._indices, "indices")

    @property
    def inputs(self) -> Tensor:
        return self._stacked(self._inputs, "inputs")

    @property
    def activations(self) -> Tensor:
        return self._stacked(self._activations, "activations")

    def _kept(self, values: Tensor) -> Tensor:
        return values if self._grad else values.detach()

    def _stacked(self, records: dict[int, Tensor], what: str) -> Tensor:
        if len(records) != len(self._rules):
            raise PaddError(
                f"This trace holds {what} of {len(records)} of {len(self._rules)} MoE layers; run one whole forward "
                "inside it, and ask for inputs and activations when opening it."
            )
        device = records[0].device
        return torch.stack([records[m].to(device) for m in range(len(records))])
