"""Warmup: what it writes and trains, on any routing, and that batches and resuming change nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, DeepseekV2Config, Qwen2MoeConfig

from padd_artifacts.artifact import Artifact, open_artifact
from padd_artifacts.errors import PaddError
from padd_artifacts.writer import Output
from padd_cli.console.artifacts import show_artifact
from padd_stages.cluster import stage as cluster
from padd_stages.cluster.options import ClusterInputs, ClusterOptions
from padd_stages.lib.models.loading import load_model
from padd_stages.toy.tokenizer import build_tokenizer
from padd_stages.warmup import stage as warmup
from padd_stages.warmup.loop import WarmupLoop
from padd_stages.warmup.options import WarmupInputs, WarmupOptions
from padd_stages.warmup.view import NUMBERS

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


def run(pico, clusters: Path, out: Path, *, resume: bool = False, **options) -> Artifact:
    inputs = WarmupInputs(
        teacher=str(pico.teacher), student=str(pico.student), clusters=clusters, split=pico.split
    )
    return warmup.run(inputs, WarmupOptions(**(SMALL | options)), Output(out, resume=resume))


@pytest.mark.parametrize(
    ("routing", "target"), [("topk", "dataset"), ("uniform", "token"), ("anneal", "token")]
)
def test_only_experts_move_and_the_router_holds_the_new_rows(pico, clusters, tmp_path, routing, target):
    artifact = run(pico, clusters, tmp_path / "out", warmup_routing=routing, init_target=target)
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


def cluster_rows(clusters: Path) -> list[torch.Tensor]:
    tensors = open_artifact(clusters, "clusters").tensors("student_layers.safetensors")
    return [tensors[f"moe.{m}.router_rows"] for m in range(2)]


def test_all_but_the_router_can_be_trained(pico, clusters, tmp_path):
    artifact = run(pico, clusters, tmp_path / "out", trainable="all")
    before = load_model(str(pico.student)).model.state_dict()
    after = load_model(str(artifact.path)).model.state_dict()
    rows = cluster_rows(clusters)
    for name, value in after.items():
        if ".gate." in name:
            assert torch.equal(value, rows[int(name.split(".")[2])]), name
        else:
            assert not torch.equal(value, before[name]), name


MEASURES = (
    "loss",
    "accuracy",
    "routing_entropy",
    "load_entropy",
    "max_vio",
    "dead_experts",
    "nmi",
    "nmi_chance",
    "expert_correlation",
    "cluster_alignment",
)


def test_the_report_tells_before_and_after(pico, clusters, tmp_path, capsys):
    artifact = run(pico, clusters, tmp_path / "out")
    report = artifact.report
    for state in ("base", "before", "after"):
        for routing in ("topk", "uniform"):
            assert tuple(report[state][routing]) == MEASURES
            undefined = [name for name, value in report[state][routing].items() if value is None]
            assert undefined == ([] if routing == "topk" else ["accuracy"]), (
                "no greedy check of what is not trained"
            )
    assert report["base"]["topk"] != report["before"]["topk"] != report["after"]["topk"]
    assert report["after"]["topk"]["loss"] < report["before"]["topk"]["loss"]
    assert artifact.manifest.summary == {
        f"{name}_{state}": report[state]["topk"][name]
        for name in ("loss", "accuracy", "nmi")
        for state in ("base", "before", "after")
    }
    show_artifact(artifact, as_json=False)
    shown = capsys.readouterr().out
    topk, uniform = shown.split("top-K routing")[1].split("uniform routing")
    for text in (topk, uniform):
        assert [name for name in MEASURES if NUMBERS[name][0] not in text] == []
        assert [name for name in ("base", "new router", "after warmup") if name not in text] == []
    assert f"{report['after']['topk']['nmi']:.4f}" in topk
    assert f"{report['before']['uniform']['loss']:.4f}" in uniform


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


@pytest.mark.parametrize("target", ["dataset", "token"])
def test_micro_batches_change_nothing(pico, clusters, tmp_path, target):
    options = {"steps": 2, "init_target": target, "beta": 30.0}
    first = run(pico, clusters, tmp_path / "a", **options).jsonl("metrics.jsonl")
    second = run(pico, clusters, tmp_path / "b", **options, micro_batch_tokens=70).jsonl("metrics.jsonl")
    for one, other in zip(first, second, strict=True):
        for name, value in one.items():
            assert other[name] == pytest.approx(value, rel=2e-3, abs=1e-6), name


@pytest.mark.parametrize(("target", "budget"), [("dataset", 70), ("token", 70), ("token", 8192)])
def test_resuming_equals_running_through(pico, clusters, tmp_path, monkeypatch, target, budget):
    options = {"init_target": target, "micro_batch_tokens": budget}
    whole = run(pico, clusters, tmp_path / "whole", **options)
    original = WarmupLoop._step

    def failing(self, step):
        if step == 2:
            raise KeyboardInterrupt
        return original(self, step)

    monkeypatch.setattr(WarmupLoop, "_step", failing)
    with pytest.raises(KeyboardInterrupt):
        run(pico, clusters, tmp_path / "cut", **options)
    monkeypatch.setattr(WarmupLoop, "_step", original)
    resumed = run(pico, clusters, tmp_path / "cut", resume=True, **options)
    assert resumed.manifest.digest == whole.manifest.digest


SHARED = {
    "vocab_size": 0,
    "hidden_size": 32,
    "intermediate_size": 44,
    "moe_intermediate_size": 12,
    "num_attention_heads": 4,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 200,
    "tie_word_embeddings": False,
}


def shared_student(family: str) -> tuple[Any, Any]:
    """A student with shared experts; DeepSeek's first layer is dense, and its routed part is scaled."""
    tokenizer = build_tokenizer(2)
    common = SHARED | {
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    torch.manual_seed(1)
    if family == "deepseek_v2":
        config: Any = DeepseekV2Config(
            **common,
            num_hidden_layers=3,
            first_k_dense_replace=1,
            n_routed_experts=5,
            n_shared_experts=2,
            num_key_value_heads=4,
            q_lora_rank=None,
            kv_lora_rank=10,
            qk_nope_head_dim=6,
            qk_rope_head_dim=8,
            v_head_dim=5,
            head_dim=8,
            routed_scaling_factor=1.7,
        )
    else:
        config = Qwen2MoeConfig(
            **common,
            num_hidden_layers=2,
            num_experts=5,
            num_key_value_heads=2,
            shared_expert_intermediate_size=14,
        )
    return AutoModelForCausalLM.from_config(config), tokenizer


@pytest.fixture(scope="module", params=["deepseek_v2", "qwen2_moe"])
def shared(request, pico, tmp_path_factory) -> tuple[Any, Path]:
    """The pico pair with a student that has shared experts, and its clusters."""
    folder = tmp_path_factory.mktemp(request.param)
    for part in shared_student(request.param):
        part.save_pretrained(folder / "student")
    pair = replace(pico, student=folder / "student")
    inputs = ClusterInputs(teacher=str(pair.teacher), student=str(pair.student), split=pair.split)
    cluster.run(inputs, ClusterOptions(), Output(folder / "clusters"))
    return pair, folder / "clusters"


@pytest.mark.parametrize("routing", ["topk", "uniform"])
@pytest.mark.parametrize("target", ["dataset", "token"])
def test_shared_experts_stay_and_routed_ones_learn(shared, tmp_path, target, routing):
    pair, clusters = shared
    options = {
        "init_target": target,
        "warmup_routing": routing,
        "alpha": 0.0,
        "beta": 1e6,
        "learning_rate": 1e-3 if target == "token" else 1e-4,
        "init_ema": 1.0,
        "steps": 15,
        "checkpoint_every": 0,
    }
    artifact = run(pair, clusters, tmp_path / "out", **options)
    before = load_model(str(pair.student)).model.state_dict()
    after = load_model(str(artifact.path))
    for name, value in after.model.state_dict().items():
        moved = not torch.equal(value, before[name])
        assert moved == (".mlp.experts." in name or ".mlp.gate." in name), name
    assert after.adapter is not None
    for m, rows in enumerate(cluster_rows(clusters)):
        assert torch.equal(after.adapter.router_weight(m).detach(), rows)
    metrics = artifact.jsonl("metrics.jsonl")
    assert metrics[-1]["loss/init"] < 0.7 * metrics[0]["loss/init"]


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
