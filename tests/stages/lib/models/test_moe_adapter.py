"""Attaching, refusing, and the routing bias, for every supported family."""

import pytest
import torch
from torch.nn import functional as F

from padd_artifacts.errors import PaddError
from padd_stages.lib.models.moe_adapter import MoEAdapter
from padd_stages.lib.models.moe_layers import find_layers
from padd_stages.lib.models.router_rules import Groups


def random_bias(adapter, scale):
    return scale * torch.randn(adapter.bias.shape, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def test_attaching_changes_no_bit_and_detaching_removes_every_hook(tiny, ids, family):
    model = tiny(family)
    native = model(ids, output_router_logits=True)
    adapter = MoEAdapter.attach(model)
    hooked = model(ids, output_router_logits=True)
    assert torch.equal(hooked.logits, native.logits)
    assert all(map(torch.equal, hooked.router_logits, native.router_logits))
    adapter.set_bias(random_bias(adapter, 2.0))
    assert not torch.allclose(model(ids).logits, native.logits)
    adapter.detach()
    assert torch.equal(model(ids).logits, native.logits)
    MoEAdapter.attach(model)


@torch.no_grad()
def test_logits_bias_is_the_native_model_with_bias_inside_its_router(tiny, ids, family, monkeypatch):
    model = tiny(family)
    model(
        ids, output_router_logits=True
    )  # transformers' recorders are there first and must still see the bias
    adapter = MoEAdapter.attach(model)
    bias = random_bias(adapter, 1.0)
    adapter.set_bias(bias)
    ours = model(ids, output_router_logits=True)
    adapter.detach()
    rows = {id(layer.router.weight): row for layer, row in zip(adapter.layers, bias, strict=True)}
    linear = F.linear

    def biased_linear(x, weight, *rest):
        out = linear(x, weight, *rest)
        return out + rows[id(weight)] if id(weight) in rows else out

    monkeypatch.setattr(F, "linear", biased_linear)
    native = model(ids, output_router_logits=True)
    assert torch.equal(ours.logits, native.logits)
    assert all(map(torch.equal, ours.router_logits, native.router_logits))


def slow_choice(family, logits, correction, bias):
    """One token: the chosen experts and the weights, as the family's paper says them, in plain Python."""
    scores = (logits.sigmoid() if family in ("deepseek_v3", "glm4_moe") else logits.softmax(-1)).tolist()
    offsets = (correction + bias).tolist()
    choice = [score + offset for score, offset in zip(scores, offsets, strict=True)]
    if family in ("gpt_oss", "granitemoe"):
        choice = (logits + bias).tolist()
    allowed = range(6)
    if family == "deepseek_v2_groups":  # two groups of three, the one with the best expert
        allowed = max((range(0, 3), range(3, 6)), key=lambda group: max(choice[j] for j in group))
    if family == "deepseek_v3":  # three groups of two, the two of the best sums
        groups = sorted((range(0, 2), range(2, 4), range(4, 6)), key=lambda g: -sum(choice[j] for j in g))[:2]
        allowed = [j for group in groups for j in group]
    chosen = sorted(allowed, key=lambda j: -choice[j])[:2]
    weights = torch.tensor([scores[j] for j in chosen])
    if family in ("qwen3_moe", "mixtral", "deepseek_v3", "glm4_moe", "gpt_oss", "granitemoe"):
        weights = weights / weights.sum()
    return chosen, weights * (1.7 if family.startswith(("deepseek", "glm4")) else 1.0)


@torch.no_grad()
@pytest.mark.parametrize("scale", [0.0, 0.3])
def test_selection_bias_changes_the_choice_and_nothing_else(tiny, ids, family, scale):
    model = tiny(family)
    adapter = MoEAdapter.attach(model, bias_mode="selection")
    adapter.set_bias(random_bias(adapter, scale))
    routed = []
    for layer in adapter.layers:
        layer.router.register_forward_hook(lambda _m, _args, triple: routed.append(triple))
    with adapter.trace(inputs=True) as trace:
        model(ids)
    moved = 0
    for layer, inputs, (logits, weights, indices) in zip(adapter.layers, trace.inputs, routed, strict=True):
        unbiased = F.linear(inputs, layer.router.weight, getattr(layer.router, "bias", None))
        torch.testing.assert_close(logits, unbiased)
        correction = getattr(layer.router, "e_score_correction_bias", torch.zeros(6))
        for token, row in enumerate(unbiased):
            chosen, expected = slow_choice(family, row, correction, adapter.bias[layer.index])
            assert indices[token].tolist() == chosen
            torch.testing.assert_close(weights[token], expected)
            moved += set(chosen) != set(slow_choice(family, row, correction, torch.zeros(6))[0])
    assert (moved > 0) == (scale > 0)


@torch.no_grad()
@pytest.mark.parametrize("mode", ["logits", "selection"])
def test_a_large_bias_on_one_expert_wins_every_token(tiny, ids, family, mode):
    model = tiny(family)
    adapter = MoEAdapter.attach(model, bias_mode=mode)
    favourites = torch.tensor([4, 0, 3])
    # The others are pushed down as well: a sigmoid saturates, so that one raised expert alone can still lose a group.
    adapter.set_bias(100.0 * F.one_hot(favourites, 6) - 50.0)
    with adapter.trace() as trace:
        model(ids)
    assert (trace.indices == favourites[:, None, None]).any(dim=-1).all()


@torch.no_grad()
@pytest.mark.parametrize("family", ["deepseek_v3", "glm4_moe"])
def test_selection_bias_is_the_checkpoints_own_correction_bias(tiny, ids, family):
    model = tiny(family)
    adapter = MoEAdapter.attach(model, bias_mode="selection")
    adapter.set_bias(random_bias(adapter, 0.3))
    ours = model(ids).logits
    adapter.detach()
    for layer, row in zip(adapter.layers, adapter.bias, strict=True):
        layer.router.e_score_correction_bias += row
    assert torch.equal(model(ids).logits, ours)


@torch.no_grad()
def test_generation_runs_under_the_bias(tiny, ids, family):
    model = tiny(family)
    adapter = MoEAdapter.attach(model)
    unbiased = model.generate(ids, max_new_tokens=5, do_sample=False)
    adapter.set_bias(random_bias(adapter, 3.0))
    generated = model.generate(ids, max_new_tokens=5, do_sample=False)
    expected = ids
    for _ in range(5):
        expected = torch.cat([expected, model(expected).logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(generated, expected)
    assert not torch.equal(generated, unbiased)


@pytest.mark.parametrize(
    ("family", "router"), [("phimoe", "PhimoeTopKRouter"), ("minimax_m2", "MiniMaxM2TopKRouter")]
)
def test_routing_that_cannot_be_reproduced_is_refused_by_name(tiny, family, router):
    with pytest.raises(PaddError, match=rf"{family} .*{router} .* another family"):
        MoEAdapter.attach(tiny(family))


def test_a_dense_model_is_refused_with_what_was_looked_for(tiny):
    with pytest.raises(
        PaddError, match=r"qwen2 \(Qwen2ForCausalLM\) has no mixture-of-experts layer .*stacked matrices"
    ):
        MoEAdapter.attach(tiny("qwen2"))


def test_a_second_adapter_is_refused(tiny):
    model = tiny("mixtral")
    MoEAdapter.attach(model)
    with pytest.raises(PaddError, match="adapter already"):
        MoEAdapter.attach(model)


def test_layers_and_parameters(tiny):
    model = tiny("deepseek_v3")
    adapter = MoEAdapter.attach(model)
    assert (adapter.num_layers, adapter.num_experts, adapter.top_k) == (3, 6, 2)
    assert [(layer.index, layer.layer_index, layer.name) for layer in adapter.layers] == [
        (0, 1, "model.layers.1.mlp"),
        (1, 2, "model.layers.2.mlp"),
        (2, 3, "model.layers.3.mlp"),
    ]
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(p)].split("mlp.")[1] for p in adapter.expert_parameters()} == {
        "experts.gate_up_proj",
        "experts.down_proj",
    }
    assert [names[id(p)] for p in adapter.router_parameters()] == [
        f"model.layers.{i}.mlp.gate.weight" for i in (1, 2, 3)
    ]
    assert adapter.router_weight(2) is model.model.layers[3].mlp.gate.weight


def test_the_bias_is_checked_copied_and_outside_the_state_dict(tiny):
    model = tiny("olmoe")
    names = set(model.state_dict())
    random_state = torch.get_rng_state()
    adapter = MoEAdapter.attach(model)
    assert torch.equal(torch.get_rng_state(), random_state)
    given = torch.ones(3, 6, dtype=torch.float64)
    adapter.set_bias(given)
    given += 1
    assert torch.equal(adapter.bias, torch.ones(3, 6))
    assert set(model.state_dict()) == names
    with pytest.raises(PaddError, match=r"\(6, 3\) does not fit .* \(3, 6\)"):
        adapter.set_bias(torch.ones(6, 3))
    with pytest.raises(PaddError, match="not finite"):
        adapter.set_bias(torch.full((3, 6), float("nan")))
    assert torch.equal(adapter.bias, torch.ones(3, 6))


@torch.no_grad()
@pytest.mark.parametrize("autocast", [False, True])
def test_router_logits_are_fp32_under_bf16_and_outputs_keep_their_dtypes(tiny, ids, family, autocast):
    model = tiny(family) if autocast else tiny(family).bfloat16()
    triples = []
    router = find_layers(model)[0].router
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        handle = router.register_forward_hook(lambda _m, _args, triple: triples.append(triple))
        model(ids)
        handle.remove()
        adapter = MoEAdapter.attach(model)
        router.register_forward_hook(lambda _m, _args, triple: triples.append(triple))
        with adapter.trace(inputs=True) as trace:
            model(ids)
    native, ours = triples
    assert [t.dtype for t in ours] == [t.dtype for t in native]
    own = getattr(router, "bias", None)
    exact = F.linear(trace.inputs[0].float(), router.weight.float(), None if own is None else own.float())
    assert torch.equal(trace.logits[0], exact)
    assert trace.probs.dtype == torch.float32


RULES = {  # score, renormalised, scale, groups
    "qwen2_moe": ("softmax", False, 1.0, None),
    "qwen3_moe": ("softmax", True, 1.0, None),
    "mixtral": ("softmax", True, 1.0, None),
    "olmoe": ("softmax", False, 1.0, None),
    "deepseek_v2": ("softmax", False, 1.7, None),
    "deepseek_v2_groups": ("softmax", False, 1.7, Groups(2, 1, "max")),
    "deepseek_v3": ("sigmoid", True, 1.7, Groups(3, 2, "top2")),
    "gpt_oss": ("logits", False, 1.0, None),
    "glm4_moe": ("sigmoid", True, 1.7, None),
    "granitemoe": ("logits", False, 1.0, None),
}


def test_the_rule_found_is_the_familys_own(tiny, family):
    rules = {layer.rule for layer in find_layers(tiny(family))}
    assert {(rule.score, rule.renormalise, rule.scale, rule.groups) for rule in rules} == {RULES[family]}


def test_a_layer_that_routes_otherwise_than_the_one_before_gets_its_own_rule(tiny):
    model = tiny("qwen3_moe")
    last = model.model.layers[-1].mlp.gate
    last.norm_topk_prob = not last.norm_topk_prob
    rules = [layer.rule for layer in MoEAdapter.attach(model).layers]
    assert rules[0] == rules[-2]
    assert rules[-1].renormalise is not rules[0].renormalise
