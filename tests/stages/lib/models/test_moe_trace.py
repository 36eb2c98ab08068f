"""What a trace holds, and when it refuses."""

import pytest
import torch
from torch.nn import functional as F

from padd_artifacts.errors import PaddError
from padd_stages.lib.models.moe_adapter import MoEAdapter

SIGMOID = ("deepseek_v3", "glm4_moe")


@torch.no_grad()
def test_probs_are_the_softmax_of_the_native_router_logits(tiny, ids, softmax_family):
    model = tiny(softmax_family)
    native = model(ids, output_router_logits=True).router_logits
    adapter = MoEAdapter.attach(model)
    with adapter.trace() as trace:
        model(ids)
    assert trace.probs.shape == (3, 35, 6)
    assert torch.equal(trace.probs, torch.stack(native).softmax(dim=-1))
    assert torch.equal(trace.logits, torch.stack(native))


@torch.no_grad()
@pytest.mark.parametrize("family", SIGMOID)
def test_probs_of_sigmoid_routers_are_normalised_scores(tiny, ids, family):
    model = tiny(family)
    scores = torch.stack(model(ids, output_router_logits=True).router_logits).sigmoid()
    adapter = MoEAdapter.attach(model)
    with adapter.trace() as trace:
        model(ids)
    torch.testing.assert_close(trace.probs, scores / scores.sum(dim=-1, keepdim=True))
    torch.testing.assert_close(trace.probs.sum(dim=-1), torch.ones(3, 35))


def by_hand(family, experts, j, x):
    """Mean |activation| (tokens,) of expert j, written out for each layout."""
    if family == "gpt_oss":
        inner = x @ experts.gate_up_proj[j] + experts.gate_up_proj_bias[j]
        gate, up = inner[:, 0::2].clamp(max=7.0), inner[:, 1::2].clamp(-7.0, 7.0)
        activation = (up + 1) * gate * torch.sigmoid(1.702 * gate)
    else:
        gate, up = experts.gate_up_proj[j][:16], experts.gate_up_proj[j][16:]
        activation = F.silu(x @ gate.T) * (x @ up.T)
    return activation.abs().mean(dim=1)


@torch.no_grad()
def test_activations_are_those_before_the_down_projection(tiny, ids, family):
    model = tiny(family)
    native = model(ids).logits
    adapter = MoEAdapter.attach(model)
    with adapter.trace(inputs=True, activations=True) as sparse:
        assert torch.allclose(model(ids).logits, native, atol=2e-5)
    with adapter.uniform(), adapter.trace(inputs=True, activations=True) as dense:
        model(ids)
    assert sparse.activations.shape == (3, 35, 2)
    assert dense.activations.shape == (3, 35, 6)
    for m, layer in enumerate(adapter.layers):
        for trace, aligned in ((sparse, sparse.indices[m]), (dense, torch.arange(6).expand(35, 6))):
            every = torch.stack([by_hand(family, layer.experts, j, trace.inputs[m]) for j in range(6)], dim=1)
            torch.testing.assert_close(trace.activations[m], every.gather(1, aligned))
    assert torch.equal(model(ids).logits, native)


def test_a_trace_is_detached_unless_asked(tiny, ids):
    model = tiny("qwen3_moe")
    adapter = MoEAdapter.attach(model)
    with adapter.trace(inputs=True, activations=True) as trace:
        model(ids)
    assert not any(t.requires_grad for t in (trace.probs, trace.logits, trace.inputs, trace.activations))
    with adapter.trace(inputs=True, activations=True, grad=True) as trace:
        model(ids)
    assert all(t.requires_grad for t in (trace.probs, trace.logits, trace.inputs, trace.activations))


def test_misuse_of_a_trace_is_refused(tiny, ids):
    model = tiny("mixtral")
    adapter = MoEAdapter.attach(model)
    with adapter.trace() as trace:
        model(ids)
        with pytest.raises(PaddError, match="holds one forward"):
            model(ids)
    with pytest.raises(PaddError, match="activations of 0 of 3 MoE layers"):
        _ = trace.activations
    with adapter.trace() as empty, pytest.raises(PaddError, match="logits of 0 of 3"):
        _ = empty.probs
    with adapter.trace(), pytest.raises(PaddError, match="open already"), adapter.trace():
        pass
    with torch.no_grad(), adapter.trace(grad=True), pytest.raises(PaddError, match="autograd is off"):
        model(ids)


@torch.no_grad()
def test_replayed_routes_fix_the_sets_and_recompute_the_weights(tiny, ids, family):
    model = tiny(family)
    native = model(ids).logits
    adapter = MoEAdapter.attach(model)
    with adapter.trace() as trace:
        model(ids)
    with adapter.fixed_routes(trace.indices):
        assert torch.equal(model(ids).logits, native)
    adapter.set_bias(torch.randn(3, 6, generator=torch.Generator().manual_seed(2)))
    with adapter.fixed_routes(trace.indices), adapter.trace() as replayed:
        assert not torch.allclose(model(ids).logits, native)
    assert torch.equal(replayed.indices, trace.indices)
    with adapter.trace() as free:
        model(ids)
    assert not torch.equal(free.indices, trace.indices)


def test_routes_of_other_shapes_are_refused(tiny, ids):
    model = tiny("mixtral")
    adapter = MoEAdapter.attach(model)
    with (
        pytest.raises(PaddError, match=r"\(2, 35, 2\) cannot be replayed"),
        adapter.fixed_routes(torch.zeros(2, 35, 2, dtype=torch.long)),
    ):
        pass
    with (
        adapter.fixed_routes(torch.zeros(3, 34, 2, dtype=torch.long)),
        pytest.raises(PaddError, match="34 tokens"),
    ):
        model(ids)


def test_a_watch_hands_over_what_a_trace_holds(tiny, ids, family):
    model = tiny(family)
    adapter = MoEAdapter.attach(model)
    with adapter.trace() as trace:
        model(ids)
    seen = {}
    with adapter.observe(lambda m, logits, indices: seen.update({m: (logits, indices)})):
        model(ids)
    for m, (logits, indices) in seen.items():
        assert torch.equal(logits, trace.logits[m])
        assert torch.equal(indices, trace.indices[m])
        assert not logits.requires_grad
    assert sorted(seen) == [0, 1, 2]


def test_misuse_of_a_watch_is_refused(tiny, ids):
    model = tiny("mixtral")
    adapter = MoEAdapter.attach(model)

    def ignore(m, logits, indices):
        pass

    with adapter.observe(ignore):
        model(ids)
        with pytest.raises(PaddError, match="holds one forward"):
            model(ids)
        with pytest.raises(PaddError, match="open already"), adapter.observe(ignore):
            pass
    with pytest.raises(PaddError, match="0 of 3"), adapter.observe(ignore):
        pass
