"""A router bias in ordinary weights: exact where a family has a place for it, a constant's worth elsewhere."""

import pytest
import torch

from padd_artifacts.errors import PaddError
from padd_stages.lib.models.bias_folding import fold_bias, native_biases, watch_routers, write_bias
from padd_stages.lib.models.moe_adapter import MoEAdapter
from padd_stages.lib.models.router_rules import router_logits

pytestmark = pytest.mark.usefixtures("one_thread")

PLACED = [("gpt_oss", "logits"), ("deepseek_v3", "selection"), ("glm4_moe", "selection")]


def biased(model, mode):
    adapter = MoEAdapter.attach(model, bias_mode=mode)
    shape = (adapter.num_layers, adapter.num_experts)
    adapter.set_bias(torch.randn(shape, generator=torch.Generator().manual_seed(1)))
    return adapter


@pytest.mark.parametrize(("family", "mode"), PLACED)
def test_a_bias_with_a_place_of_its_own_is_exact(tiny, ids, family, mode):
    model = tiny(family)
    with torch.no_grad():
        plain = model(ids).logits
        adapter = biased(model, mode)
        wanted = model(ids).logits
        assert not torch.allclose(wanted, plain, atol=1e-2)
        write_bias(adapter, native_biases(adapter))
        adapter.detach()
        torch.testing.assert_close(model(ids).logits, wanted, atol=1e-5, rtol=1e-5)


def test_folding_adds_the_bias_wherever_the_constant_is_one(tiny, family):
    """w picks out a coordinate that is 1 in every input, so the fold has nothing to approximate."""
    adapter = biased(tiny(family), "logits")
    hidden = torch.randn(9, 24, generator=torch.Generator().manual_seed(2))
    hidden[:, 3] = 1.0
    before = [router_logits(layer.router, hidden) for layer in adapter.layers]
    bias = adapter.bias.clone()
    fold_bias(adapter, [torch.eye(24)[3]] * adapter.num_layers)
    for layer, logits, row in zip(adapter.layers, before, bias, strict=True):
        torch.testing.assert_close(router_logits(layer.router, hidden), logits + row, atol=1e-5, rtol=1e-5)
    assert not adapter.bias.any()


def test_only_families_with_a_place_have_one(tiny, family):
    assert (native_biases(biased(tiny(family), "logits")) is not None) == (family == "gpt_oss")


def test_a_choice_bias_without_a_place_is_refused(tiny):
    with pytest.raises(PaddError, match="train with --bias-mode logits"):
        native_biases(biased(tiny("qwen3_moe"), "selection"))


def test_what_is_watched_is_what_the_routers_return(tiny, ids, family):
    model, seen = tiny(family), {}
    adapter = biased(model, "logits")

    def see(m, hidden, indices):
        seen[m] = (hidden, indices)

    with torch.no_grad(), adapter.trace(inputs=True) as trace, watch_routers(adapter, see):
        model(ids)
    for m, (hidden, indices) in seen.items():
        assert torch.equal(hidden, trace.inputs[m])
        assert torch.equal(indices, trace.indices[m])
    assert len(seen) == adapter.num_layers
