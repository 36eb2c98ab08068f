"""Memory of sharded models at true size, on the meta device, and against FSDP2's own parts."""

from pathlib import Path

import pytest
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from padd_stages.lib.models.loading import load_meta_model
from padd_stages.lib.models.moe_adapter import MoEAdapter
from padd_stages.lib.models.policy import Policy
from padd_stages.lib.planning.budget import PlannedModel
from padd_stages.lib.planning.gpus import GIB
from padd_stages.lib.planning.shape import shape_of
from padd_stages.lib.runtime.launcher import Launch

PUBLISHED = Path(__file__).parents[3] / "published"  # config.json of models on the hub, what shapes them
STUDENT, TEACHER = "Qwen3-30B-A3B", "Qwen2.5-Math-7B"
PARAMETERS = {STUDENT: 30_532_122_624, TEACHER: 7_615_616_512}
PROCESSES = 8


@pytest.fixture
def mesh():
    """Of eight processes of which only this one exists."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=PROCESSES)
    yield init_device_mesh("cpu", (PROCESSES,))
    dist.destroy_process_group()


@pytest.mark.parametrize("name", [STUDENT, TEACHER])
def test_true_sizes_are_what_fsdp2_keeps(mesh, name):
    folder = str(PUBLISHED / name)
    model = load_meta_model(folder)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]
    if name == STUDENT:
        adapter = MoEAdapter.attach(model)
        assert (adapter.num_layers, adapter.num_experts, adapter.top_k) == (48, 128, 8)
    policy = Policy(model)
    layers = policy.layers
    assert len(layers) == model.config.num_hidden_layers
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(policy, mesh=mesh)
    assert all(isinstance(layer, FSDPModule) for layer in layers)
    kept = sum(4 * parameter.to_local().numel() for parameter in policy.parameters()) / GIB
    launch = Launch(PROCESSES, sharded=True)
    planned = PlannedModel(folder, "auto", launch, trained="all", sharded=True)
    held = planned.held("model")
    assert held["model: weights"] == planned.gradients() == pytest.approx(kept, abs=0.01)
    assert held["model: moments (adamw)"] == pytest.approx(2 * kept, abs=0.01)
    whole = PlannedModel(folder, "float32", Launch(PROCESSES, sharded=False)).held("model")
    assert whole == {"model: weights": pytest.approx(4 * PARAMETERS[name] / GIB, abs=0.01)}


@pytest.mark.parametrize(
    ("name", "total", "active"),
    [
        (STUDENT, 30.5e9, 3.3e9),
        # the makers of these two leave the embeddings of the input out of what is active for a token
        ("DeepSeek-V2-Lite", 15.7e9, 2.4e9 + 102_400 * 2048),
        ("ibm-granite/granite-3.1-3b-a800m-instruct", 3.3e9, 0.8e9 + 49_155 * 1536),
    ],
)
def test_parameters_are_those_that_the_makers_publish(name, total, active):
    counts = shape_of(str(PUBLISHED / name), "auto", "nothing").counts()
    assert counts == {"total": pytest.approx(total, rel=5e-3), "active": pytest.approx(active, rel=2e-2)}
