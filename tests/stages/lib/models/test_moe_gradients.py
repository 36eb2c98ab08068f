"""Gradients through the hook, with and without gradient checkpointing."""

from contextlib import ExitStack

import pytest
import torch

from padd_artifacts.errors import PaddError
from padd_stages.lib.models.moe_adapter import MoEAdapter


def loss_of(model, ids):
    return model(ids, labels=ids, use_cache=False).loss


def gradients(model):
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return grads


def assert_same(ours, expected):
    assert ours.keys() == expected.keys()
    for name, grad in ours.items():
        torch.testing.assert_close(
            grad, expected[name], atol=2e-6, rtol=2e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_gradients_at_zero_bias_are_native(tiny, ids, family):
    model = tiny(family)
    loss_of(model, ids).backward()
    native = gradients(model)
    adapter = MoEAdapter.attach(model)
    loss_of(model, ids).backward()
    ours = gradients(model)
    assert ours.keys() == native.keys()
    assert all(torch.equal(ours[name], native[name]) for name in ours)
    assert all(native[name].abs().sum() > 0 for name in native if ".experts." in name)
    routers = [
        name for name, p in model.named_parameters() if any(p is r for r in adapter.router_parameters())
    ]
    assert all(native[name].abs().sum() > 0 for name in routers)


def contexts(adapter, stack, kind):
    """Enter the contexts of one kind and return the open trace."""
    if kind == "uniform":
        stack.enter_context(adapter.uniform(0.6))
    if kind == "replay":
        stack.enter_context(adapter.fixed_routes(torch.arange(6).repeat(35).view(3, 35, 2)))
    return stack.enter_context(
        adapter.trace(inputs=True, activations=kind in ("uniform", "topk"), grad=kind != "detached")
    )


def step(model, adapter, ids, kind):
    """One forward and backward of the loss and, where the trace carries gradients, of what it holds."""
    with ExitStack() as stack:
        trace = contexts(adapter, stack, kind)
        loss = loss_of(model, ids)
        if kind != "detached":
            loss = loss + trace.probs.square().sum()
        if kind in ("uniform", "topk"):
            loss = loss + trace.activations.mean()
        loss.backward()
    return trace, gradients(model)


@pytest.mark.parametrize("kind", ["detached", "plain", "topk", "uniform", "replay"])
@pytest.mark.parametrize("family", ["qwen2_moe", "deepseek_v3", "gpt_oss"])
def test_checkpointing_changes_neither_trace_nor_gradients(tiny, ids, family, kind):
    model = tiny(family).train()
    adapter = MoEAdapter.attach(model)
    adapter.set_bias(torch.randn(3, 6, generator=torch.Generator().manual_seed(7)))
    plain, expected = step(model, adapter, ids, kind)
    model.gradient_checkpointing_enable()
    checkpointed, ours = step(model, adapter, ids, kind)
    assert torch.equal(checkpointed.probs, plain.probs)
    assert torch.equal(checkpointed.indices, plain.indices)
    assert torch.equal(checkpointed.inputs, plain.inputs)
    if kind in ("uniform", "topk"):
        assert torch.equal(checkpointed.activations, plain.activations)
    assert_same(ours, expected)


def test_reentrant_checkpointing_keeps_a_detached_trace(tiny, ids):
    model = tiny("qwen3_moe").train()
    adapter = MoEAdapter.attach(model)
    plain, expected = step(model, adapter, ids, "detached")
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    model.enable_input_require_grads()
    checkpointed, ours = step(model, adapter, ids, "detached")
    assert torch.equal(checkpointed.probs, plain.probs)
    assert_same(ours, expected)


def test_a_trace_closed_before_backward_is_harmless(tiny, ids):
    model = tiny("gpt_oss").train()
    adapter = MoEAdapter.attach(model)
    loss_of(model, ids).backward()
    expected = gradients(model)
    model.gradient_checkpointing_enable()
    with adapter.trace(grad=True) as trace:
        loss = loss_of(model, ids)
    (loss + 0.0 * trace.probs.sum()).backward()
    assert_same(gradients(model), expected)


@pytest.mark.parametrize("kind", ["uniform", "replay", "topk"])
def test_backward_outside_the_context_is_refused_under_checkpointing(tiny, ids, kind):
    model = tiny("mixtral").train()
    adapter = MoEAdapter.attach(model)
    model.gradient_checkpointing_enable()
    with ExitStack() as stack:
        contexts(adapter, stack, kind)
        loss = loss_of(model, ids)
    with pytest.raises(PaddError, match=r"call backward\(\) inside"):
        loss.backward()


def test_an_evaluation_between_forward_and_backward_does_no_harm(tiny, ids):
    model = tiny("mixtral").train()
    adapter = MoEAdapter.attach(model)
    _, expected = step(model, adapter, ids, "uniform")
    model.gradient_checkpointing_enable()
    with adapter.uniform(0.6), adapter.trace(inputs=True, activations=True, grad=True) as trace:
        loss = loss_of(model, ids) + trace.probs.square().sum() + trace.activations.mean()
        adapter_mode = adapter._mode
    with torch.no_grad():
        model(ids)
    with adapter.uniform(0.6), adapter.trace(activations=True, grad=True):
        assert adapter._mode == adapter_mode
        loss.backward()
    assert_same(gradients(model), expected)
