"""Finding a model's MoE layers: each router with its experts, in any family of transformers >= 5.20."""

from dataclasses import dataclass

from torch import nn

from padd_artifacts.errors import PaddError
from padd_stages.models.routing import Rule, find_rule, router_weight


@dataclass(frozen=True)
class MoELayer:
    """One MoE layer: `index` m counts MoE layers, `layer_index` l all decoder layers, dense ones included."""

    index: int
    layer_index: int
    name: str
    router: nn.Module
    experts: nn.Module
    num_experts: int
    top_k: int
    rule: Rule


def find_layers(model: nn.Module) -> list[MoELayer]:
    """The MoE layers of `model` in order, each with the rule that reproduces its router.

    A layer is a module with a child `experts` that has `_apply_gate`, and beside it a router of the class from which
    the model records router logits. Raises PaddError as `MoEAdapter.attach` says.
    """
    routers = _router_classes(model)
    layers: list[MoELayer] = []
    for name, block in model.named_modules():
        experts = getattr(block, "experts", None)
        if not isinstance(experts, nn.Module) or not hasattr(experts, "_apply_gate"):
            continue
        router = next((child for child in block.children() if isinstance(child, routers)), None)
        rule = None if router is None else find_rule(router)
        if router is None or rule is None:
            raise PaddError(
                f"{family_name(model)} routes tokens in a way that padd cannot reproduce exactly (router "
                f"{type(router).__name__ if router else 'not found'} of {name}), so its routing can be neither "
                "measured nor biased; use a student of another family."
            )
        layer_index = next((int(part) for part in reversed(name.split(".")) if part.isdigit()), len(layers))
        num_experts = len(router_weight(router))
        layers.append(
            MoELayer(len(layers), layer_index, name, router, experts, num_experts, rule.top_k, rule)
        )
    _check_layers(model, layers)
    return layers


def _check_layers(model: nn.Module, layers: list[MoELayer]) -> None:
    if not layers:
        raise PaddError(
            f"{family_name(model)} has no mixture-of-experts layer (looked for modules with a child `experts` that has "
            "`_apply_gate`, beside a router whose logits transformers >= 5.20 records), so there is nothing to route; "
            "give a mixture-of-experts student such as Qwen3-30B-A3B."
        )
    if len(sizes := {(layer.num_experts, layer.top_k) for layer in layers}) > 1:
        raise PaddError(
            f"{family_name(model)} has MoE layers of different sizes, (experts, top-K) in {sorted(sizes)}, and one "
            "bias table cannot serve them; use a student whose MoE layers are alike."
        )


def _router_classes(model: nn.Module) -> tuple[type[nn.Module], ...]:
    """The classes that `model` and its sub-models name under `router_logits` in `_can_record_outputs`."""
    found: list[type[nn.Module]] = []
    for module in model.modules():
        recorded = (getattr(module, "_can_record_outputs", None) or {}).get("router_logits", [])
        for entry in recorded if isinstance(recorded, list) else [recorded]:
            target = getattr(entry, "target_class", entry)
            if isinstance(target, type):
                found.append(target)
    return tuple(found)


def family_name(model: nn.Module) -> str:
    """The model as a message names it: its type and class."""
    return f"{getattr(getattr(model, 'config', None), 'model_type', 'unknown')} ({type(model).__name__})"
