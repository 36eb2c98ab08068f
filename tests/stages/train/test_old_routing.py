"""Old routing: one block that forwards fill, Gamma against fp64, what fp16 costs, and how much memory it takes."""

import subprocess
import sys

import pytest
import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from padd_stages.lib.data.sequences import TokenSequence, collate
from padd_stages.lib.models.moe_adapter import MoEAdapter
from padd_stages.lib.objectives.drift import router_shift
from padd_stages.train.old_routing import TRACE_DTYPES, RouterMovement, RoutingStore

L, N, K, V = 3, 6, 2, 23


@pytest.fixture
def model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 20, "moe_intermediate_size": 8, "head_dim": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": L}
    experts = {"num_experts": N, "num_experts_per_tok": K, "norm_topk_prob": True}
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(vocab_size=V, **sizes, **heads, **experts)).eval()


@pytest.fixture
def batches():
    sequences = [
        TokenSequence((1, 2, 3), (4, 5, 6, 7)),
        TokenSequence((8, 9), (10, 11)),
        TokenSequence((3,), (12, 13, 14)),
    ]
    return [collate(sequences[:2], 0), collate(sequences[2:], 0)]


def forward(model, batch):
    return model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits


@torch.no_grad()
def filled(model, adapter, batches, dtype=torch.float32):
    store = RoutingStore(adapter, sum(batch.targets.numel() for batch in batches), dtype)
    parts = []
    for batch in batches:
        parts.append(store.part(batch, with_routes=True))
        with adapter.observe(parts[-1].writer(adapter, batch)):
            forward(model, batch)
    return store, parts


def moved(model, scale=0.02):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


@torch.no_grad()
def traced(model, adapter, batch):
    with adapter.trace() as trace:
        forward(model, batch)
    chosen = batch.select.flatten()
    return trace.probs[:, chosen], trace.indices[:, chosen], trace.indices


def test_the_store_holds_what_a_trace_would(model, batches):
    adapter = MoEAdapter.attach(model)
    store, parts = filled(model, adapter, batches)
    for batch, part in zip(batches, parts, strict=True):
        probs, indices, routes = traced(model, adapter, batch)
        assert torch.equal(part.probs, probs)
        assert torch.equal(part.indices.long(), indices)
        assert torch.equal(part.routes.long(), routes)
        assert part.probs.untyped_storage().data_ptr() == store._probs.untyped_storage().data_ptr()
        assert not part.error.any()


@pytest.mark.parametrize("with_grad", [False, True])
def test_movement_is_the_formula_in_fp64(model, batches, with_grad):
    adapter = MoEAdapter.attach(model)
    _, parts = filled(model, adapter, batches)
    before = [traced(model, adapter, batch) for batch in batches]
    moved(model)
    for batch, part, (old, indices, _) in zip(batches, parts, before, strict=True):
        movement = RouterMovement(part, torch.device("cpu"), with_shift=True)
        new, _, _ = traced(model, adapter, batch)
        if with_grad:
            with adapter.trace(grad=True) as trace:
                forward(model, batch)
            for m, probs in enumerate(trace.probs[:, batch.select.flatten()]):
                movement.add(m, probs, slice(None))
        else:
            with adapter.observe(movement.listener(adapter, batch)):
                forward(model, batch)
        exact = (new.double() - old.double()).norm(dim=-1).mean(dim=0)
        assert float(exact.min()) > 1e-4
        torch.testing.assert_close(movement.gamma.detach().double(), exact, atol=1e-6, rtol=0)
        shift = router_shift(new.double(), old.double(), indices)
        torch.testing.assert_close(movement.shift.double(), shift, atol=1e-6, rtol=1e-5)
        assert movement.gamma.requires_grad == with_grad


def test_fp16_is_off_by_no_more_than_it_says(model, batches):
    adapter = MoEAdapter.attach(model)
    exact, rough = filled(model, adapter, batches)[1], filled(model, adapter, batches, torch.float16)[1]
    assert rough[0].probs.element_size() == 2
    moved(model)
    for batch, whole, half in zip(batches, exact, rough, strict=True):
        gammas = []
        for part in (whole, half):
            movement = RouterMovement(part, torch.device("cpu"), with_shift=False)
            with torch.no_grad(), adapter.observe(movement.listener(adapter, batch)):
                forward(model, batch)
            gammas.append(movement.gamma)
        off = (gammas[0] - gammas[1]).abs()
        assert 0 < float(half.error.max()) < 1e-3
        assert bool((off <= half.error + 1e-7).all())


PEAK = """
import sys, torch
from pathlib import Path
from types import SimpleNamespace
from padd_stages.train.old_routing import TRACE_DTYPES, RouterMovement, RoutingStore
L, N, K = 48, 128, 8
rule = SimpleNamespace(probs=lambda logits: logits.softmax(-1))
adapter = SimpleNamespace(num_layers=L, num_experts=N, top_k=K, layers=[SimpleNamespace(rule=rule)] * L)
def run(tokens, dtype, logits, indices):
    batch = SimpleNamespace(targets=torch.zeros(tokens), select=torch.ones(1, tokens, dtype=torch.bool))
    part = RoutingStore(adapter, tokens, dtype).part(batch, with_routes=False)
    movement = RouterMovement(part, torch.device("cpu"), with_shift=True)
    for see in (part.writer(adapter, batch), movement.listener(adapter, batch)):
        for m in range(L):
            see(m, logits, indices)
    return float(movement.gamma.max())
def peak():
    status = Path("/proc/self/status").read_text()  # getrusage would start from the parent's
    return 1024 * int(status.split("VmHWM:")[1].split()[0])
tokens, dtype = int(sys.argv[2]), TRACE_DTYPES[sys.argv[1]]
logits = torch.randn(tokens, N)  # the model's own, and no part of what is measured
indices = logits.topk(K).indices
run(8, dtype, logits[:8], indices[:8])  # nor what torch loads at its first operations
before = peak()
run(tokens, dtype, logits, indices)
print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
@pytest.mark.parametrize(
    ("dtype", "tokens", "megabytes"),
    [
        ("fp32", 2048, 57),
        ("fp16", 2048, 32),
        pytest.param("fp32", 16384, 420, marks=pytest.mark.slow),
        pytest.param("fp16", 16384, 220, marks=pytest.mark.slow),
    ],
)
def test_memory_is_the_block_and_little_more(dtype, tokens, megabytes):
    """48 layers of 128 experts in a process of its own: the block is 403 MB in fp32 at 16,384 tokens, 13 of choices."""
    command = [sys.executable, "-c", PEAK, dtype, str(tokens)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    block = 48 * tokens * (128 * TRACE_DTYPES[dtype].itemsize + 8 * 2)
    assert 0.9 * block < int(done.stdout) < megabytes * 1e6, done.stdout
