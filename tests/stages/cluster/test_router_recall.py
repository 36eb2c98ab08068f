"""Which experts a router's rows choose, and how recalls are laid out and put into words."""

import pytest
import torch
from transformers import AutoModelForCausalLM, DeepseekV3Config, GptOssConfig

from padd_stages.cluster.options import ClusterOptions
from padd_stages.cluster.router_recall import (
    Candidate,
    candidates,
    chosen_experts,
    compare,
    mean_of,
    router_verdict,
)
from padd_stages.lib.models.moe_adapter import MoEAdapter

TINY = {
    "vocab_size": 31,
    "hidden_size": 24,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
}
FAMILIES = {
    "deepseek_v3": DeepseekV3Config(
        **TINY,
        **{
            "intermediate_size": 34,
            "moe_intermediate_size": 16,
            "n_routed_experts": 6,
            "num_experts_per_tok": 2,
        },
        **{"n_group": 3, "topk_group": 2, "first_k_dense_replace": 0, "q_lora_rank": 12, "kv_lora_rank": 10},
        **{
            "qk_nope_head_dim": 6,
            "qk_rope_head_dim": 8,
            "v_head_dim": 5,
            "head_dim": 8,
            "num_key_value_heads": 4,
        },
    ),
    "gpt_oss": GptOssConfig(
        **TINY,
        **{"intermediate_size": 16, "num_local_experts": 6, "num_experts_per_tok": 2, "head_dim": 8},
        **{"num_key_value_heads": 2, "layer_types": ["full_attention"] * 2},
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("bias_mode", ["logits", "selection"])
def test_the_old_rows_choose_what_the_student_chooses(family, bias_mode):
    """With groups, a correction, the router's own bias and the adapter's: as the model itself routes."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES[family]).float().eval()
    adapter = MoEAdapter.attach(model, bias_mode=bias_mode)
    adapter.set_bias(0.02 * torch.randn(2, 6))
    with torch.no_grad():
        for layer in adapter.layers:
            for values in (*layer.router.parameters(), *layer.router.buffers()):
                values.normal_(std=0.3)
        with adapter.trace(inputs=True) as trace:
            model(torch.randint(1, 31, (3, 7)))
        for m in range(2):
            own = getattr(adapter.layers[m].router, "bias", None)
            chosen = chosen_experts(adapter, m, trace.inputs[m], adapter.router_weight(m), own)
            assert torch.equal(chosen, trace.indices[m])
            plain = (trace.inputs[m] @ adapter.router_weight(m).T).topk(2).indices
            assert not torch.equal(plain.sort().values, chosen.sort().values)


def test_candidates_are_those_in_use_and_with_comparison_every_map_and_matching():
    plain = candidates(ClusterOptions(router_map="truncate", match="index", compare_maps=False))
    pairs = {("truncate", "index"), ("keep", "index")}
    assert set(plain) == {Candidate(*pair, blended) for pair in pairs for blended in (True, False)}
    compared = candidates(ClusterOptions(router_map="truncate", match="index"))
    pairs |= {
        ("ridge", "index"),
        ("random-projection", "index"),
        ("truncate", "hungarian"),
        ("keep", "hungarian"),
    }
    assert set(compared) == {Candidate(*pair, blended) for pair in pairs for blended in (True, False)}
    assert len(compared) == 12


def test_the_shape_of_a_comparison_and_its_mean():
    table = compare(lambda candidate: float(candidate.blended), ClusterOptions())
    assert list(table["maps"]) == ["ridge", "random-projection", "truncate", "keep"]
    assert table["match"]["index"] == {"recall": 1.0, "recall_unblended": 0.0, "recall_old": 1.0}
    assert mean_of([{"a": {"b": 1.0}, "c": 0.0}, {"a": {"b": 2.0}, "c": 1.0}]) == {"a": {"b": 1.5}, "c": 0.5}


@pytest.mark.parametrize(
    ("recall", "old", "worth"),
    [
        (0.255, 0.2, "chance 25.0 %: no better than chance"),
        (0.40, 0.395, "better than chance, no better than the old router"),
        (
            0.40,
            0.30,
            "40.0 % of held-out tokens, the old one 30.0 %, chance 25.0 %: better than the old router",
        ),
    ],
)
def test_router_verdict_in_words(recall, old, worth):
    assert router_verdict(recall, old, 0.25).endswith(worth)
