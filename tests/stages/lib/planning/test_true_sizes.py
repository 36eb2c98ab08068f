"""Memory of sharded models at true size, on the meta device, and against FSDP2's own parts."""

import pytest
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import Qwen2Config, Qwen3MoeConfig

from padd_stages.lib.models.loading import load_meta_model
from padd_stages.lib.models.moe_adapter import MoEAdapter
from padd_stages.lib.models.policy import Policy
from padd_stages.lib.planning.budget import PlannedModel
from padd_stages.lib.planning.gpus import GIB
from padd_stages.lib.planning.shape import shape_of
from padd_stages.lib.runtime.launcher import Launch

# as their config.json on the hub
QWEN3_30B_A3B = Qwen3MoeConfig(
    architectures=["Qwen3MoeForCausalLM"],
    dtype="bfloat16",
    vocab_size=151936,
    hidden_size=2048,
    intermediate_size=6144,
    moe_intermediate_size=768,
    num_hidden_layers=48,
    num_attention_heads=32,
    num_key_value_heads=4,
    head_dim=128,
    num_experts=128,
    num_experts_per_tok=8,
    norm_topk_prob=True,
    max_position_embeddings=40960,
    tie_word_embeddings=False,
)
QWEN25_MATH_7B = Qwen2Config(
    architectures=["Qwen2ForCausalLM"],
    dtype="bfloat16",
    vocab_size=152064,
    hidden_size=3584,
    intermediate_size=18944,
    num_hidden_layers=28,
    num_attention_heads=28,
    num_key_value_heads=4,
    max_position_embeddings=4096,
    tie_word_embeddings=False,
)
PARAMETERS = {"student": 30_532_122_624, "teacher": 7_615_616_512}
PROCESSES = 8


@pytest.fixture
def mesh():
    """Of eight processes of which only this one exists."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=PROCESSES)
    yield init_device_mesh("cpu", (PROCESSES,))
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("role", "config"), [("student", QWEN3_30B_A3B), ("teacher", QWEN25_MATH_7B)], ids=["student", "teacher"]
)
def test_true_sizes_are_what_fsdp2_keeps(tmp_path, mesh, role, config):
    config.save_pretrained(tmp_path)
    model = load_meta_model(str(tmp_path))
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[role]
    if role == "student":
        adapter = MoEAdapter.attach(model)
        assert (adapter.num_layers, adapter.num_experts, adapter.top_k) == (48, 128, 8)
    policy = Policy(model)
    layers = policy.layers
    assert len(layers) == config.num_hidden_layers
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(policy, mesh=mesh)
    assert all(isinstance(layer, FSDPModule) for layer in layers)
    kept = sum(4 * parameter.to_local().numel() for parameter in policy.parameters()) / GIB
    launch = Launch(PROCESSES, sharded=True)
    planned = PlannedModel(str(tmp_path), "auto", launch, trained="all", sharded=True)
    held = planned.held(role)
    assert held[f"{role}: weights"] == planned.gradients() == pytest.approx(kept, abs=0.01)
    assert held[f"{role}: moments (adamw)"] == pytest.approx(2 * kept, abs=0.01)
    whole = PlannedModel(str(tmp_path), "float32", Launch(PROCESSES, sharded=False)).held(role)
    assert whole == {f"{role}: weights": pytest.approx(4 * PARAMETERS[role] / GIB, abs=0.01)}


def test_parameters_are_those_that_the_makers_publish(tmp_path):
    QWEN3_30B_A3B.save_pretrained(tmp_path)
    counts = shape_of(str(tmp_path), "auto", "nothing").counts()
    assert counts == {"total": pytest.approx(30.5e9, rel=5e-3), "active": pytest.approx(3.3e9, rel=2e-2)}
