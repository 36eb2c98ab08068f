"""Uniform routing against every expert run alone by the native module."""

import pytest
import torch

from padd_artifacts.errors import PaddError
from padd_stages.lib.models.moe_adapter import MoEAdapter


def watch_experts(adapter):
    """Per layer the last (input, indices, weights, output) of its experts module."""
    seen = {}
    for layer in adapter.layers:
        layer.experts.register_forward_hook(
            lambda _m, args, out, m=layer.index: seen.update({m: (*args, out)}), always_call=True
        )
    return seen


def average_of_experts(experts, hidden, scale):
    alone = [
        experts(hidden, torch.full((len(hidden), 1), j), torch.ones(len(hidden), 1))
        for j in range(experts.num_experts)
    ]
    return scale * torch.stack(alone).mean(dim=0)


@torch.no_grad()
@pytest.mark.parametrize("mix", [1.0, 0.4, 0.0])
def test_uniform_is_the_average_of_the_experts_mixed_with_the_native_output(tiny, ids, family, mix):
    model = tiny(family)
    adapter = MoEAdapter.attach(model)
    seen = watch_experts(adapter)
    with adapter.uniform(mix):
        model(ids)
    records = dict(seen)
    scale = 1.7 if family.startswith(("deepseek", "glm4")) else 1.0
    for layer in adapter.layers:
        hidden, indices, weights, out = records[layer.index]
        average = average_of_experts(layer.experts, hidden, scale)
        native = layer.experts(hidden, indices, weights)
        torch.testing.assert_close(out, mix * average + (1 - mix) * native, atol=2e-6, rtol=2e-5)


@torch.no_grad()
def test_no_mixing_is_native_and_leaving_restores_it(tiny, ids, family):
    model = tiny(family)
    native = model(ids).logits
    adapter = MoEAdapter.attach(model)
    with adapter.uniform(0.0):
        torch.testing.assert_close(model(ids).logits, native, atol=2e-5, rtol=1e-4)
    with adapter.uniform():
        assert not torch.allclose(model(ids).logits, native)
    with pytest.raises(ValueError, match="from inside"), adapter.uniform():
        raise ValueError("from inside")
    assert torch.equal(model(ids).logits, native)


@torch.no_grad()
@pytest.mark.parametrize("family", ["deepseek_v2", "deepseek_v3", "glm4_moe", "qwen2_moe"])
def test_shared_experts_are_untouched(tiny, ids, family):
    model = tiny(family)
    adapter = MoEAdapter.attach(model)
    block = next(layer.mlp for layer in model.model.layers if hasattr(layer.mlp, "experts"))
    seen = watch_experts(adapter)
    outputs = []
    block.register_forward_hook(lambda _m, args, out: outputs.append((args[0], out)))
    with adapter.uniform():
        model(ids)
    (hidden, out), routed = outputs[0], seen[0][3]
    if family == "qwen2_moe":
        shared = block.shared_expert_gate(hidden).sigmoid() * block.shared_expert(hidden)
    else:
        shared = block.shared_experts(hidden)
    assert float(shared.abs().max()) > 1e-3
    torch.testing.assert_close(out, routed.view_as(out) + shared)


@pytest.mark.parametrize("mix", [-0.1, 1.1, float("nan")])
def test_a_mix_outside_zero_to_one_is_refused(tiny, mix):
    adapter = MoEAdapter.attach(tiny("mixtral"))
    with pytest.raises(PaddError, match="share of uniform"), adapter.uniform(mix):
        pass


@torch.no_grad()
def test_a_wrapped_forward_is_put_back(tiny, ids):
    """Device maps put a forward on the instance; a context must leave it there."""
    model = tiny("mixtral")
    adapter = MoEAdapter.attach(model)
    experts = adapter.layers[1].experts
    wrapped = experts.forward
    experts.forward = wrapped
    with adapter.uniform(), adapter.trace(activations=True):
        model(ids)
    assert experts.__dict__["forward"] is wrapped
    assert "forward" not in adapter.layers[0].experts.__dict__
