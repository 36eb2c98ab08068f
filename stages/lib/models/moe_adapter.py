"""The MoE adapter: record, bias and replace the routing of any supported MoE model of transformers.

A forward hook on each router recomputes the logits in fp32, adds the adapter's bias, chooses again by the family's own
rule (router_rules.py) and returns the triple in the native dtypes. At bias 0 and in fp32 the model computes
bit for bit what it computed before.

Under gradient checkpointing the forward runs a second time during backward. A trace keeps the first pass of each
layer; and since the second must repeat the first, `backward()` belongs inside the `uniform`, `fixed_routes` and
`trace(activations=True)` contexts of its forward. Outside them it is refused, not silently wrong.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from padd_artifacts.errors import PaddError
from padd_stages.lib.compat.torch import in_backward
from padd_stages.lib.models.experts import run_all, run_top_k
from padd_stages.lib.models.moe_layers import MoELayer, family_name, find_layers
from padd_stages.lib.models.router_rules import correction_offsets, router_logits, router_weight
from padd_stages.lib.models.trace import RouterObserver, RouterTrace, RoutingCallback
from padd_stages.lib.models.word_routes import WordRoutes

BiasMode = Literal["logits", "selection"]
NO_ROUTE = -1  # in replayed routes: the token takes the choice of its own scores
ADAPTER_FLAG = "padd_adapter"  # set on routers, so that a second adapter on the same model is noticed


@dataclass(frozen=True)
class _Mode:
    """Changes to a forward by the open contexts; `routes` are compared by identity."""

    mix: float | None = None
    activations: bool = False
    activations_grad: bool = False
    routes: tuple[Tensor, ...] | None = field(default=None, compare=False)

    @property
    def replaces_experts(self) -> bool:
        return self.mix is not None or self.activations


class MoEAdapter:
    """Hooks on every router of one model; made by `attach`, ended by `detach`.

    Attributes: layers; num_layers L, num_experts N, top_k K (equal in all layers); bias (L, N) fp32, a plain tensor
    outside the state dict; bias_mode: "logits" adds it to the logits before everything, "selection" to the family's
    own selection scores for the choice alone (docs/METHOD.md, section 4, Stage IV); words: routes by words alone, of
    StableMoE, None where the student routes itself.
    """

    def __init__(self, layers: list[MoELayer], bias_mode: BiasMode) -> None:
        self.layers = layers
        self.bias_mode: BiasMode = bias_mode
        self.num_layers, self.num_experts, self.top_k = len(layers), layers[0].num_experts, layers[0].top_k
        weight = self.router_weight(0)
        device = "cpu" if weight.is_meta else weight.device
        self.bias = torch.zeros(self.num_layers, self.num_experts, device=device)
        self.words: WordRoutes | None = None
        self._mode = _Mode()
        self._forward_mode: _Mode | None = None
        self._trace: RouterTrace | None = None
        self._observer: RouterObserver | None = None
        self._native_forwards: dict[int, Any] = {}
        # prepend: transformers' own recorder of router logits, if it is there already, must see our output.
        self._handles = [
            layer.router.register_forward_hook(partial(self._route, layer), prepend=True) for layer in layers
        ]
        for layer in layers:
            setattr(layer.router, ADAPTER_FLAG, True)

    @classmethod
    def attach(cls, model: nn.Module, bias_mode: BiasMode = "logits") -> "MoEAdapter":
        """Find the MoE layers of `model`, check that their routing can be reproduced exactly, and hook them.

        Raises:
            PaddError: there is no MoE layer, no rule reproduces a router, layers differ in N or K, or an adapter is
                attached already.
        """
        layers = find_layers(model)
        if getattr(layers[0].router, ADAPTER_FLAG, False):
            raise PaddError(
                f"{family_name(model)} has an MoE adapter already, and a second one would add its bias twice; "
                "detach() the first."
            )
        return cls(layers, bias_mode)

    def detach(self) -> None:
        """Remove every hook; the model routes natively again."""
        for handle, layer in zip(self._handles, self.layers, strict=True):
            handle.remove()
            setattr(layer.router, ADAPTER_FLAG, False)
        self._set_mode(_Mode())

    def router_weight(self, m: int) -> nn.Parameter:
        """Return the router matrix of MoE layer m, (N, D)."""
        return router_weight(self.layers[m].router)

    def router_parameters(self) -> list[nn.Parameter]:
        """Return all routers' parameters (a router's own bias included)."""
        return [parameter for layer in self.layers for parameter in layer.router.parameters()]

    def expert_parameters(self) -> list[nn.Parameter]:
        """Return all routed experts' parameters, without shared experts."""
        return [parameter for layer in self.layers for parameter in layer.experts.parameters()]

    def set_bias(self, bias: Tensor) -> None:
        """Replace the routing bias by a copy of `bias` (L, N).

        Raises:
            PaddError: another shape, or a value that is not finite.
        """
        expected = (self.num_layers, self.num_experts)
        if tuple(bias.shape) != expected:
            raise PaddError(
                f"A routing bias of shape {tuple(bias.shape)} does not fit a model of {expected[0]} MoE layers and "
                f"{expected[1]} experts; give one of shape {expected}."
            )
        if not bool(bias.isfinite().all()):
            raise PaddError(
                "The routing bias holds values that are not finite, and every choice would be void; reset it."
            )
        self.bias = bias.detach().to(self.bias.device, torch.float32, copy=True)

    @contextmanager
    def trace(
        self, *, inputs: bool = False, activations: bool = False, grad: bool = False
    ) -> Iterator[RouterTrace]:
        """Record the routing of the one forward run inside, as a RouterTrace.

        With `activations` the experts run through our own loop, equal to the native one up to the order of sums.
        Records are detached unless `grad`. A second forward inside is refused.
        """
        if self._trace is not None:
            raise PaddError(
                "A trace is open already, and a second one would take its records; close the first."
            )
        self._trace = RouterTrace([layer.rule for layer in self.layers], inputs=inputs, grad=grad)
        changes = {"activations": True, "activations_grad": grad} if activations else {}
        try:
            with self._switched(**changes):
                yield self._trace
        finally:
            self._trace = None

    @contextmanager
    def observe(self, callback: RoutingCallback) -> Iterator[None]:
        """Call `callback(m, logits, indices)` as the one forward run inside passes layer m; see RouterObserver.

        For records that need not be kept: nothing is stacked, and no layer is held longer than the call.
        """
        if self._observer is not None:
            raise PaddError(
                "An observer is open already, and a second one would take its place; close the first."
            )
        self._observer = observer = RouterObserver(self.num_layers, callback)
        try:
            yield
        finally:
            self._observer = None
        observer.close()

    @contextmanager
    def uniform(self, mix: float = 1.0) -> Iterator[None]:
        """Send every token to every routed expert, with weight mix * scale / N + (1 - mix) * native top-K weight.

        `scale` is the family's routed scaling factor (1 where there is none), so that the routed part keeps its size
        beside the shared experts, which are untouched. mix = 0 gives the native output up to the order of sums.
        Source: docs/METHOD.md, section 3 (warmup under uniform, annealed or top-K routing).
        """
        if not 0.0 <= mix <= 1.0:
            raise PaddError(f"A mix of {mix} is not a share of uniform routing; give one from 0 to 1.")
        with self._switched(mix=mix):
            yield

    @contextmanager
    def fixed_routes(self, indices: Tensor) -> Iterator[None]:
        """Replay routes: the top-K sets are `indices` (L, tokens, K); weights come from the current scores.

        A token whose entries are NO_ROUTE takes the choice of its own scores.
        """
        if indices.dim() != 3 or (len(indices), indices.shape[-1]) != (self.num_layers, self.top_k):
            raise PaddError(
                f"Routes of shape {tuple(indices.shape)} cannot be replayed on {self.num_layers} MoE layers with top-"
                f"{self.top_k}; give (layers, tokens, K), as a trace of the same tokens holds them."
            )
        with self._switched(routes=tuple(indices)):
            yield

    @contextmanager
    def _switched(self, **changes: Any) -> Iterator[None]:
        before = self._mode
        self._set_mode(replace(before, **changes))
        try:
            yield
        finally:
            self._set_mode(before)

    def _set_mode(self, mode: _Mode) -> None:
        """Set the mode; experts have another `forward` only while a mode needs it."""
        if mode.replaces_experts and not self._mode.replaces_experts:
            for layer in self.layers:
                self._native_forwards[layer.index] = layer.experts.__dict__.get("forward")
                layer.experts.forward = partial(self._run_experts, layer)
        elif self._mode.replaces_experts and not mode.replaces_experts:
            for layer in self.layers:
                del layer.experts.forward
                if (
                    wrapped := self._native_forwards.pop(layer.index)
                ) is not None:  # device maps put one there
                    layer.experts.forward = wrapped
        self._mode = mode

    def _route(
        self, layer: MoELayer, _: nn.Module, args: tuple[Tensor, ...], native: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """Return (logits, weights, indices) in the native dtypes, from fp32 logits with the bias: the router's hook."""
        self._refuse_changed_recomputation()
        hidden = args[0].reshape(-1, args[0].shape[-1])
        rule = layer.rule
        logits = router_logits(layer.router, hidden)
        if self.bias_mode == "logits":
            logits = logits + self._bias_on(hidden.device)[layer.index]
        scores = rule.scores(logits)
        indices = rule.choose(scores, self._offsets(layer, hidden.device))
        if self._mode.routes is not None:
            indices = _replayed(self._mode.routes[layer.index], indices)
        elif self.words is not None:
            indices = _replayed(self.words.of_layer(layer.index), indices)
        for recorder in (self._trace, self._observer):
            if recorder is not None and not in_backward():
                recorder.record_routing(layer.index, logits, indices, hidden)
        weights = rule.weigh(scores, indices)
        return logits.to(native[0].dtype), weights.to(native[1].dtype), indices.to(native[2].dtype)

    def choose(self, m: int, logits: Tensor) -> Tensor:
        """Return the top-K choice (tokens, K) that layer m makes of its logits (tokens, N), as records hold them."""
        layer = self.layers[m]
        return layer.rule.choose(layer.rule.scores(logits), self._offsets(layer, logits.device))

    def _offsets(self, layer: MoELayer, device: torch.device) -> tuple[Tensor, ...]:
        """Return what is added to the scores for the choice alone."""
        offsets = correction_offsets(layer.router)
        return offsets if self.bias_mode == "logits" else (*offsets, self._bias_on(device)[layer.index])

    def _run_experts(self, layer: MoELayer, hidden: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
        """Replace an experts module's forward while a mode needs it; shapes as in run_top_k."""
        mix, grad = self._mode.mix, self._mode.activations_grad
        if mix is None:
            out, activations = run_top_k(layer.experts, hidden, indices, weights, grad=grad)
        else:
            native = torch.zeros(len(hidden), layer.num_experts, dtype=weights.dtype, device=weights.device)
            native = native.scatter_add(-1, indices, weights)
            dense = mix * layer.rule.scale / layer.num_experts + (1.0 - mix) * native
            out, activations = run_all(layer.experts, hidden, dense, grad=grad)
        if self._trace is not None and self._mode.activations and not in_backward():
            self._trace.record_activations(layer.index, activations)
        return out

    def _bias_on(self, device: torch.device) -> Tensor:
        if self.bias.device != device:
            self.bias = self.bias.to(device)
        return self.bias

    def _refuse_changed_recomputation(self) -> None:
        """Refuse a recomputation by gradient checkpointing outside the contexts of its forward."""
        if not in_backward():
            if torch.is_grad_enabled():
                self._forward_mode = self._mode
            return
        was, now = self._forward_mode, self._mode
        if was is not None and (was != now or was.routes is not now.routes):
            raise PaddError(
                "Gradient checkpointing recomputes the forward outside the routing context that it ran in, so its "
                "gradients would be those of another route; call backward() inside the same context."
            )


def _replayed(routes: Tensor, native: Tensor) -> Tensor:
    if len(routes) != len(native):
        raise PaddError(
            f"Routes of {len(routes)} tokens cannot be replayed on a forward of {len(native)}; run the same tokens."
        )
    routes = routes.to(native.device, torch.int64)
    return torch.where(routes == NO_ROUTE, native, routes)
