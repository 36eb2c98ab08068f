"""What of a model is trained: all or a part of it, or low-rank factors (LoRA) beside its matrices."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from padd_stages.lib.compat.peft import add_factors, factors, product_of, set_folded, wrapped_weight, wrappers
from padd_stages.lib.compat.transformers import decoder_layers, is_linear
from padd_stages.lib.models.moe_adapter import MoEAdapter
from padd_stages.lib.runtime.sharding import gather, local, local_part

LoraTarget = Literal["attention", "experts", "routers"]


@dataclass(frozen=True)
class Lora:
    """Factors of rank ``rank`` beside the matrices of the targets; their product is multiplied by ``alpha / rank``."""

    rank: int
    alpha: float
    targets: tuple[LoraTarget, ...]


Trained = Literal["nothing", "all", "all-but-routers", "experts", "routers"] | Lora


def choose_trained(model: Any, adapter: MoEAdapter | None, trained: Trained) -> None:
    """Set `requires_grad` of a model's parameters, and add factors where those are trained."""
    model.requires_grad_(trained in ("all", "all-but-routers"))
    if isinstance(trained, Lora):
        _add_lora(model, adapter, trained)
    elif adapter is not None and trained != "all":
        chosen = adapter.expert_parameters() if trained == "experts" else adapter.router_parameters()
        for parameter in chosen:
            parameter.requires_grad_(trained in ("experts", "routers"))


def _add_lora(model: nn.Module, adapter: MoEAdapter | None, lora: Lora) -> None:
    names = {module: name for name, module in model.named_modules()}
    modules: list[str] = []
    parameters: list[str] = []
    if "attention" in lora.targets:
        modules = [names[module] for layer in decoder_layers(model) for module in _attention(layer)]
    if adapter is not None and "experts" in lora.targets:
        parameters += [
            f"{names[layer.experts]}.{name}"
            for layer in adapter.layers
            for name, parameter in layer.experts.named_parameters(recurse=False)
            if parameter.dim() == 3  # the stacked matrices, not their biases
        ]
    if adapter is not None and "routers" in lora.targets:
        parameters += [f"{names[layer.router]}.weight" for layer in adapter.layers]
    add_factors(model, modules=modules, parameters=parameters, rank=lora.rank, alpha=lora.alpha)


def _attention(layer: nn.Module) -> Iterator[nn.Module]:
    """Yield the linear modules of a decoder layer's attention; every family calls it so."""
    for name, child in layer.named_children():
        if "attn" in name or "attention" in name:
            yield from (module for module in child.modules() if is_linear(module))


def with_factors(model: nn.Module, module: nn.Module) -> nn.Module:
    """Return the module with the factors that are around it, as the model runs it; itself if there are none."""
    return next((w for _, w in wrappers(model) if w.get_base_layer() is module), module)


@contextmanager
def folded_experts(model: nn.Module) -> Iterator[None]:
    """Keep the products of experts' factors in their matrices, for forwards without gradients; then as before, exactly.

    Else every forward makes each layer's matrices anew, which for a forward of few tokens is most of its time. A
    collective of a sharded model.
    """
    kept: list[tuple[Any, Tensor, Tensor]] = []
    try:
        for _, wrapper in wrappers(model):
            if wrapped_weight(wrapper).dim() == 3:
                weight = local(wrapped_weight(wrapper))
                kept.append((wrapper, weight, weight.clone()))
                _fold(wrapper)
        yield
    finally:
        for wrapper, weight, before in kept:
            weight.copy_(before)
            set_folded(wrapper, False)


def merge_factors(model: nn.Module) -> None:
    """Add all products to their matrices for good, and take the factors out. A collective of a sharded model."""
    found = list(wrappers(model))
    for _, wrapper in found:
        _fold(wrapper)
    for name, wrapper in found:
        parent, _, child = name.rpartition(".")
        if child != "base_layer":  # inside another wrapper
            setattr(model.get_submodule(parent), child, wrapper.get_base_layer())


@torch.no_grad()
def _fold(wrapper: Any) -> None:
    weight = wrapped_weight(wrapper)
    product = product_of(wrapper, {name: gather(factor) for name, factor in factors(wrapper).items()})
    local(weight).add_(local(local_part(product, like=weight)))
    set_folded(wrapper, True)
