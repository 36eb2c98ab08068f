"""What is trained of a model: of every family the chosen parameters, and factors that begin, fold and merge exactly."""

from typing import Any

import pytest
import torch
from torch import Tensor

from padd_stages.lib.compat.peft import wrapped_weight, wrappers
from padd_stages.lib.models.moe_adapter import MoEAdapter
from padd_stages.lib.models.trainable import (
    Lora,
    LoraTarget,
    choose_trained,
    folded_experts,
    merge_factors,
)

ALL: tuple[LoraTarget, ...] = ("attention", "experts", "routers")
CLOSE = 1e-5  # relative: another order of sums in fp32


def adapter_of(model: Any) -> MoEAdapter | None:
    has_experts = any(hasattr(module, "experts") for module in model.modules())
    return MoEAdapter.attach(model) if has_experts else None


def logits(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(input_ids=ids).logits


def with_factors_set(model: Any, targets: tuple[LoraTarget, ...]) -> MoEAdapter | None:
    """A model whose factors are random; B is 0 at first, and then its product does nothing."""
    adapter = adapter_of(model)
    choose_trained(
        model, adapter, Lora(3, 6.0, tuple(t for t in targets if adapter is not None or t == "attention"))
    )
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return adapter


@pytest.mark.parametrize("what", ["experts", "routers"])
def test_a_part_is_trained_alone(tiny, family, what):
    model = tiny(family)
    adapter = adapter_of(model)
    assert adapter is not None
    choose_trained(model, adapter, what)
    found = {id(p) for p in model.parameters() if p.requires_grad}
    wanted = adapter.expert_parameters() if what == "experts" else adapter.router_parameters()
    assert found == {id(p) for p in wanted}
    assert len(found) >= adapter.num_layers


def test_new_factors_change_nothing_and_are_all_that_is_trained(tiny, any_family, ids):
    model = tiny(any_family)
    before, own = logits(model, ids), {id(p) for p in model.parameters()}
    adapter = adapter_of(model)
    choose_trained(model, adapter, Lora(3, 6.0, ALL if adapter else ("attention",)))
    assert torch.equal(logits(model, ids), before)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained
    assert not {id(p) for p in trained} & own


def test_every_factor_learns_and_the_merged_model_is_the_same(tiny, any_family, ids):
    model = tiny(any_family)
    names, native = set(model.state_dict()), logits(model, ids)
    with_factors_set(model, ALL)
    found = model(input_ids=ids).logits
    found.sin().sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None and bool(parameter.grad.any())) == parameter.requires_grad, name
    largest = float(found.detach().abs().max())
    assert float((found.detach() - native).abs().max()) > 0.05 * largest
    merge_factors(model)
    assert set(model.state_dict()) == names
    assert float((logits(model, ids) - found.detach()).abs().max()) < CLOSE * largest


def test_a_router_with_factors_routes_by_them(tiny, family, ids):
    """The adapter computes the logits anew; without the factors it would undo them."""
    model = tiny(family)
    adapter = with_factors_set(model, ("routers",))
    assert adapter is not None
    with adapter.trace() as before, torch.no_grad():
        model(input_ids=ids)
    merge_factors(model)
    with adapter.trace() as after, torch.no_grad():
        model(input_ids=ids)
    assert torch.allclose(before.logits, after.logits, atol=1e-4)
    assert torch.equal(before.indices, after.indices)


def test_folded_experts_compute_the_same_and_are_as_before_afterwards(tiny, family, ids):
    model = tiny(family)
    with_factors_set(model, ALL)
    found = logits(model, ids)
    weights = {
        name: wrapped_weight(wrapper)
        for name, wrapper in wrappers(model)
        if wrapped_weight(wrapper).dim() == 3
    }
    kept = {name: weight.detach().clone() for name, weight in weights.items()}
    with folded_experts(model):
        assert not any(torch.equal(weights[name], kept[name]) for name in kept)
        assert float((logits(model, ids) - found).abs().max()) < CLOSE * float(found.abs().max())
    assert kept
    assert all(torch.equal(weights[name], kept[name]) for name in kept)
    assert torch.equal(logits(model, ids), found)


def test_activations_and_uniform_routing_see_the_factors(tiny, ids):
    """Both read the experts' matrices themselves."""
    model = tiny("qwen3_moe")
    adapter = with_factors_set(model, ("experts",))
    assert adapter is not None

    def seen() -> tuple[Tensor, Tensor]:
        with adapter.trace(activations=True) as trace, torch.no_grad():
            model(input_ids=ids)
        with adapter.uniform(), torch.no_grad():
            return trace.activations, model(input_ids=ids).logits

    before = seen()
    merge_factors(model)
    for ours, merged in zip(before, seen(), strict=True):
        assert torch.allclose(ours, merged, atol=1e-4)
