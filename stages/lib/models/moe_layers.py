"""The MoE layers of a model, each router with its experts, in any family of transformers."""

from dataclasses import dataclass

from torch import nn

from padd_artifacts.errors import PaddError
from padd_stages.lib.compat.transformers import is_experts
from padd_stages.lib.models.router_rules import Rule, are_alike, find_rule, router_weight


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
    """Find the MoE layers of `model` in order, each with the rule that reproduces its router.

    A layer is a module with a child `experts` that holds all experts as stacked matrices, and beside it a router that
    some rule reproduces.

    Raises:
        PaddError: as `MoEAdapter.attach`.
    """
    layers: list[MoELayer] = []
    for name, block in model.named_modules():
        experts = getattr(block, "experts", None)
        if not is_experts(experts):
            continue
        beside = [child for child in block.children() if child is not experts]
        found = ((child, rule) for child in beside if (rule := _rule(child, layers)) is not None)
        router, rule = next(found, (None, None))
        if router is None or rule is None:
            raise PaddError(
                f"{family_name(model)} routes tokens in a way that padd cannot reproduce exactly (none of "
                f"{', '.join(type(child).__name__ for child in beside) or 'nothing'} beside the experts of {name}), so "
                "its routing can be neither measured nor biased; use a student of another family."
            )
        layer_index = next((int(part) for part in reversed(name.split(".")) if part.isdigit()), len(layers))
        num_experts = len(router_weight(router))
        layers.append(
            MoELayer(len(layers), layer_index, name, router, experts, num_experts, rule.top_k, rule)
        )
    _check_layers(model, layers)
    return layers


def _rule(router: nn.Module, layers: list[MoELayer]) -> Rule | None:
    """Find the rule of a router; it takes a while, and the routers of most models are alike."""
    if layers and are_alike(router, layers[-1].router):
        return layers[-1].rule
    return find_rule(router)


def _check_layers(model: nn.Module, layers: list[MoELayer]) -> None:
    if not layers:
        raise PaddError(
            f"{family_name(model)} has no mixture-of-experts layer (looked for modules with a child `experts` that "
            "holds stacked matrices, and a router beside it), so there is nothing to route; give a mixture-of-experts "
            "student such as Qwen3-30B-A3B."
        )
    if len(sizes := {(layer.num_experts, layer.top_k) for layer in layers}) > 1:
        raise PaddError(
            f"{family_name(model)} has MoE layers of different sizes, (experts, top-K) in {sorted(sizes)}, and one "
            "bias table cannot serve them; use a student whose MoE layers are alike."
        )


def family_name(model: nn.Module) -> str:
    """Return the model's type and class, for messages."""
    return f"{getattr(getattr(model, 'config', None), 'model_type', 'unknown')} ({type(model).__name__})"
