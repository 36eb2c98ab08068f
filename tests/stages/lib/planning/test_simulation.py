"""The simulated memory of an update against what a profiler sees of a real one."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from padd_stages.lib.compat.peft import running_on_meta
from padd_stages.lib.models.moe_adapter import MoEAdapter
from padd_stages.lib.models.policy import Policy, run_body
from padd_stages.lib.models.trainable import Lora, Trained, choose_trained
from padd_stages.lib.models.trained import checkpoint_activations, use_checkpoints
from padd_stages.lib.objectives.chunked import chunked_logprobs
from padd_stages.lib.planning.simulation import Batch, forward_bytes, plan_attention, update_bytes

CONFIG = Qwen3MoeConfig(
    architectures=["Qwen3MoeForCausalLM"],
    vocab_size=640,
    hidden_size=96,
    intermediate_size=192,
    moe_intermediate_size=64,
    num_hidden_layers=7,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=16,
    num_experts=8,
    num_experts_per_tok=2,
    max_position_embeddings=512,
    tie_word_embeddings=False,
)
BATCH = Batch(rows=6, length=200, masked=False)


LORA = Lora(rank=4, alpha=8.0, targets=("attention", "experts"))


def build(device: str, trained: Trained = "all") -> Qwen3MoeForCausalLM:
    with torch.device(device):
        model = Qwen3MoeForCausalLM._from_config(CONFIG, attn_implementation="sdpa")
    choose_trained(model, MoEAdapter.attach(model), trained)
    return model.train()


def peak_of(profiled: profile) -> int:
    """Return the largest sum of what the allocator gave and took back, in bytes."""
    live = peak = 0
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def measured_update(trained: Trained, checkpointed: bool) -> int:
    model = build("cpu", trained)
    policy = Policy(model)
    if checkpointed:
        checkpoint_activations(model)
        use_checkpoints(model)
    for parameter in (p for p in policy.parameters() if p.requires_grad):
        parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    ids = torch.randint(CONFIG.vocab_size, (BATCH.rows, BATCH.length))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        hidden = run_body(model, ids, torch.ones_like(ids)).flatten(0, 1)
        head = policy.head
        chunked_logprobs(hidden, head.weight, ids.flatten(), 1.0)[0].sum().backward()
    return peak_of(profiled)


@pytest.mark.parametrize("trained", ["all", "experts", LORA], ids=["all", "experts", "lora"])
@pytest.mark.parametrize("checkpointed", [False, True], ids=["kept", "checkpointed"])
def test_an_update_needs_what_a_profiler_sees(trained, checkpointed):
    model = build("meta", trained)
    plan_attention(model, masked=False)
    with running_on_meta():
        told = update_bytes(model, BATCH, teacher_head=None, checkpointed=checkpointed, grouped=False)
    assert told == pytest.approx(measured_update(trained, checkpointed), rel=0.15)


def test_layers_that_are_not_run_count(monkeypatch):
    told = []
    for layers in (4, 7):
        monkeypatch.setattr("padd_stages.lib.planning.simulation.LAYERS_RUN", layers)
        model = build("meta")
        plan_attention(model, masked=False)
        told.append(update_bytes(model, BATCH, teacher_head=(700, 48), checkpointed=False, grouped=True))
    assert told[0] == pytest.approx(told[1], rel=1e-3)


def test_a_forward_without_gradients_needs_less_than_an_update():
    model = build("meta")
    plan_attention(model, masked=False)
    forward = forward_bytes(model, BATCH)
    assert forward < update_bytes(model, BATCH, teacher_head=None, checkpointed=False, grouped=False) / 3
