"""Warmup: what it writes and trains, on any routing, and that batches and resuming change nothing."""

from pathlib import Path

import pytest
import torch

from padd_artifacts.artifact import Artifact
from padd_artifacts.errors import PaddError
from padd_artifacts.writer import Output
from padd_stages import cluster, warmup
from padd_stages.engine.warmup_loop import WarmupLoop
from padd_stages.models.loading import load_model
from padd_stages.options.cluster import ClusterInputs, ClusterOptions
from padd_stages.options.warmup import WarmupInputs, WarmupOptions

SMALL = {
    "steps": 4,
    "batch_size": 6,
    "learning_rate": 1e-2,
    "lr_warmup_steps": 0,
    "max_length": 90,
    "max_new_tokens": 5,
    "checkpoint_every": 1,
    "held_out": 0.2,
}


@pytest.fixture(scope="module")
def clusters(pico, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("warmup") / "clusters"
    inputs = ClusterInputs(teacher=str(pico.teacher), student=str(pico.student), split=pico.split)
    cluster.run(inputs, ClusterOptions(), Output(out))
    return out


def run(pico, clusters: Path, out: Path, *, resume: bool = False, **options) -> Artifact:
    inputs = WarmupInputs(
        teacher=str(pico.teacher), student=str(pico.student), clusters=clusters, split=pico.split
    )
    return warmup.run(inputs, WarmupOptions(**(SMALL | options)), Output(out, resume=resume))


@pytest.mark.parametrize("routing", ["topk", "uniform", "anneal"])
def test_only_experts_move_and_the_router_holds_the_new_rows(pico, clusters, tmp_path, routing):
    artifact = run(pico, clusters, tmp_path / "out", warmup_routing=routing)
    before = load_model(str(pico.student)).model.state_dict()
    after = load_model(str(artifact.path))
    rows = cluster_rows(clusters)
    for name, value in after.model.state_dict().items():
        moved = not torch.equal(value, before[name])
        assert moved == ("experts" in name or ".gate." in name), name
    assert after.adapter is not None
    for m in range(after.adapter.num_layers):
        assert torch.equal(after.adapter.router_weight(m).detach(), rows[m])
    metrics = artifact.jsonl("metrics.jsonl")
    assert metrics[-1]["loss/lm"] < metrics[0]["loss/lm"]
    assert set(artifact.report) >= {"base", "before", "after"}
    assert artifact.report["after"]["uniform"]["loss"] > 0


def cluster_rows(clusters: Path) -> list[torch.Tensor]:
    from safetensors.torch import load_file

    tensors = load_file(clusters / "student_layers.safetensors")
    return [tensors[f"moe.{m}.router_rows"] for m in range(2)]


@pytest.mark.parametrize("routing", ["topk", "uniform"])
@pytest.mark.parametrize("target", ["dataset", "token"])
def test_the_init_term_draws_activations_to_their_target(pico, clusters, tmp_path, target, routing):
    options = {
        "init_target": target,
        "warmup_routing": routing,
        "alpha": 0.0,
        "beta": 1e6,  # Adam does not feel scale, so L_init acts alone
        "learning_rate": 3e-4 if target == "dataset" else 1e-3,
        "init_ema": 1.0,
        "steps": 25,
        "checkpoint_every": 0,
    }
    rows = run(pico, clusters, tmp_path / "out", **options).jsonl("metrics.jsonl")
    assert rows[-1]["loss/init"] < 0.7 * rows[0]["loss/init"]


def test_micro_batches_change_nothing(pico, clusters, tmp_path):
    first = run(pico, clusters, tmp_path / "a", steps=2).jsonl("metrics.jsonl")
    second = run(pico, clusters, tmp_path / "b", steps=2, micro_batch_tokens=70).jsonl("metrics.jsonl")
    for one, other in zip(first, second, strict=True):
        for name, value in one.items():
            assert other[name] == pytest.approx(value, rel=2e-3, abs=1e-6), name


def test_resuming_equals_running_through(pico, clusters, tmp_path, monkeypatch):
    whole = run(pico, clusters, tmp_path / "whole")
    original = WarmupLoop._step

    def failing(self, step):
        if step == 2:
            raise KeyboardInterrupt
        return original(self, step)

    monkeypatch.setattr(WarmupLoop, "_step", failing)
    with pytest.raises(KeyboardInterrupt):
        run(pico, clusters, tmp_path / "cut")
    monkeypatch.setattr(WarmupLoop, "_step", original)
    resumed = run(pico, clusters, tmp_path / "cut", resume=True)
    assert resumed.manifest.digest == whole.manifest.digest


def test_clusters_of_another_pair_are_refused(pico, clusters, tmp_path):
    inputs = WarmupInputs(
        teacher=str(pico.student), student=str(pico.student), clusters=clusters, split=pico.split
    )
    with pytest.raises(PaddError, match="was made for teacher"):
        warmup.plan(inputs, WarmupOptions())


def test_rows_without_a_solution_leave_nothing_to_train_on(pico, clusters, tmp_path):
    with pytest.raises(PaddError, match="warmup-text teacher"):
        run(pico, clusters, tmp_path / "out", max_length=3)
    assert list(tmp_path.iterdir()) == []
