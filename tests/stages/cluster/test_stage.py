"""The whole stage on tiny random models: what it writes against a slow version, and what it refuses."""

import shutil

import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from padd_artifacts.artifact import open_artifact
from padd_artifacts.errors import PaddError, UsageError
from padd_artifacts.plan import Plan
from padd_artifacts.writer import ArtifactWriter, Output
from padd_stages.cluster import stage as cluster
from padd_stages.cluster.layer_clusters import normalise
from padd_stages.cluster.options import ClusterInputs, ClusterOptions
from padd_stages.lib.data.subdomains import SUBDOMAINS
from padd_stages.lib.options.base import Options

WORDS = [" ", "\n", "+", "=", "so", "what", "is", *"0123456789"]
TEACHER_LAYERS, STUDENT_LAYERS, EXPERTS, TOP_K, WIDTH, D_T, D_S = 5, 4, 6, 2, 42, 24, 20
ROWS = 36


def make_tokenizer(order: int) -> PreTrainedTokenizerFast:
    """Two orders give the same tokens under different ids."""
    words = np.random.default_rng(order).permutation(["<unk>", "<pad>", "<s>", *WORDS]).tolist()
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[a-z]+|[\s\S]"), behavior="isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", pad_token="<pad>", eos_token="<s>", bos_token="<s>"
    )


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    torch.manual_seed(0)
    tokenizer = make_tokenizer(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=D_T,
        intermediate_size=WIDTH,
        num_hidden_layers=TEACHER_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    folder = tmp_path_factory.mktemp("teacher")
    Qwen2ForCausalLM(config).save_pretrained(folder, max_shard_size="16KB")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    torch.manual_seed(1)
    tokenizer = make_tokenizer(1)
    config = Qwen3MoeConfig(
        vocab_size=len(tokenizer),
        hidden_size=D_S,
        intermediate_size=26,
        moe_intermediate_size=28,
        num_hidden_layers=STUDENT_LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=12,
        num_experts=EXPERTS,
        num_experts_per_tok=TOP_K,
        mlp_only_layers=[0],
        initializer_range=0.3,
    )
    folder = tmp_path_factory.mktemp("student")
    Qwen3MoeForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "split"
    rng = np.random.default_rng(0)
    rows = []
    for i in range(ROWS):
        a, b = rng.integers(10, 99, 2)
        rows.append(
            {
                "id": f"p{i}",
                "problem": f"what is {a} + {b}",
                "answer": str(a + b),
                "solution": f"so {a} + {b} = {a + b}" if i % 3 else None,
                "subdomain": SUBDOMAINS[2 if a % 2 else 0],
            }
        )
    with ArtifactWriter(Output(folder), Plan("split", Options(seed=0), {})) as writer:
        for name in "abcd":
            writer.write_jsonl(f"{name}.jsonl", rows)
        writer.write_json("report.json", {})
    return folder


@pytest.fixture(scope="module")
def made(teacher, student, split, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "clusters"
    inputs = ClusterInputs(teacher=str(teacher), student=str(student), split=split)
    return cluster.run(inputs, ClusterOptions(router_blend=0.4, xi=0.7, batch_tokens=160), Output(out))


def activations_by_hand(model, ids):
    """Per layer: FFN inputs (tokens, d_T) and |activation| (tokens, d_ff), without hooks on what is tested."""
    states = model.model(ids, output_hidden_states=True).hidden_states
    result = []
    for index, layer in enumerate(model.model.layers):
        hidden = states[index]
        positions = model.model.rotary_emb(hidden, torch.arange(ids.shape[1])[None])
        mask = torch.full((ids.shape[1], ids.shape[1]), float("-inf")).triu(1)[None, None]
        attended = layer.self_attn(layer.input_layernorm(hidden), positions, mask)[0]
        inner = layer.post_attention_layernorm(hidden + attended)[0]
        mlp = layer.mlp
        result.append((inner, (mlp.act_fn(mlp.gate_proj(inner)) * mlp.up_proj(inner)).abs()))
    return result


def test_layer_map_and_shapes(made):
    report = made.report
    assert report["layer_map"] == {
        "0": {"student_layer": 1, "teacher_layer": 1},
        "1": {"student_layer": 2, "teacher_layer": 2},
        "2": {"student_layer": 3, "teacher_layer": 3},
    }
    teacher_tensors, tensors = (
        made.tensors("teacher_layers.safetensors"),
        made.tensors("student_layers.safetensors"),
    )
    assert set(teacher_tensors) == {f"layer.{t}.{n}" for t in (1, 2, 3) for n in ("assignment", "centroids")}
    assert teacher_tensors["layer.2.centroids"].shape == (EXPERTS, D_T)
    for m in range(3):
        assert tensors[f"moe.{m}.router_rows"].shape == (EXPERTS, D_S)
        assert tensors[f"moe.{m}.target_subdomain"].shape == (2, EXPERTS)
        assert sorted(tensors[f"moe.{m}.expert_to_cluster"].tolist()) == list(range(EXPERTS))
        assert tensors[f"moe.{m}.target"].sum().item() == pytest.approx(1.0)
    assert report["subdomains"] == [SUBDOMAINS[0], SUBDOMAINS[2]]
    assert open_artifact(made.path, "clusters").manifest.summary["clusters"] == EXPERTS
    assert set(made.manifest.parents) == {"teacher", "student", "split"}


def test_clusters_have_equal_sizes_and_centroids_are_means_of_normalised_rows(made, teacher):
    tensors = made.tensors("teacher_layers.safetensors")
    model = Qwen2ForCausalLM.from_pretrained(teacher)
    for layer in (1, 2, 3):
        assignment = tensors[f"layer.{layer}.assignment"]
        assert assignment.dtype == torch.int32
        assert torch.bincount(assignment).tolist() == [WIDTH // EXPERTS] * EXPERTS
        rows = torch.nn.functional.normalize(model.model.layers[layer].mlp.gate_proj.weight.detach(), dim=1)
        means = torch.stack([rows[assignment == j].mean(dim=0) for j in range(EXPERTS)])
        torch.testing.assert_close(tensors[f"layer.{layer}.centroids"], means)


def test_targets_match_a_slow_version(made, teacher, split):
    tensors, assignments = (
        made.tensors("student_layers.safetensors"),
        made.tensors("teacher_layers.safetensors"),
    )
    model = Qwen2ForCausalLM.from_pretrained(teacher).eval()
    tokenizer = make_tokenizer(0)
    seen = {name: [] for name in made.report["subdomains"]}
    with torch.no_grad():
        for row in open_artifact(split).jsonl("a.jsonl"):
            text = row["problem"] + ("\n" + row["solution"] if row["solution"] else "")
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            seen[row["subdomain"]].append([values for _, values in activations_by_hand(model, ids)])
    for m, layer in enumerate((1, 2, 3)):
        assignment = assignments[f"layer.{layer}.assignment"]
        order = tensors[f"moe.{m}.expert_to_cluster"].long()

        def h(texts, layer=layer, assignment=assignment):
            values = torch.cat([text[layer] for text in texts])
            return torch.stack([values[:, assignment == j].mean() for j in range(EXPERTS)])

        overall = h([text for texts in seen.values() for text in texts])
        target = torch.softmax(overall / overall.mean() / 0.7, dim=0)[order]
        torch.testing.assert_close(tensors[f"moe.{m}.target"], target, rtol=1e-4, atol=1e-6)
        assert made.report["scale"][str(layer)] == pytest.approx(overall.mean().item(), rel=1e-4)
        for s, texts in enumerate(seen.values()):
            part = h(texts)[order]
            torch.testing.assert_close(
                tensors[f"moe.{m}.target_subdomain"][s], part / part.mean(), rtol=1e-4, atol=1e-5
            )


def test_router_rows_are_new_and_as_long_as_the_old(made, student):
    tensors = made.tensors("student_layers.safetensors")
    model = Qwen3MoeForCausalLM.from_pretrained(student)
    for m, layer in enumerate((1, 2, 3)):
        old = model.model.layers[layer].mlp.gate.weight.detach()
        new = tensors[f"moe.{m}.router_rows"]
        torch.testing.assert_close(new.norm(dim=1), old.norm(dim=1), rtol=1e-3, atol=1e-4)
        assert (new - old).norm() > 0.1 * old.norm()


def test_the_report_beats_chance_where_it_should(made):
    report = made.report
    assert report["chance"] == pytest.approx(TOP_K / EXPERTS, abs=1e-6)
    assert report["texts"] == {"fitted_on": 32, "held_out": 4}
    assert report["tokens"]["teacher"] > report["tokens"]["fitted_on"] > report["tokens"]["held_out"] > 0
    for layer in report["router"].values():
        assert 0 < layer["r_squared"] < 1
        assert 0 <= layer["recall"] <= 1
    mean = np.mean([layer["recall_unblended"] for layer in report["router"].values()])
    assert mean > report["chance"]
    for quality in report["teacher_layers"].values():
        assert quality["explained"] > quality["random_mean"]
        assert -1 <= quality["stability"] <= 1


def test_two_runs_give_the_same_digest_and_batches_change_almost_nothing(
    made, teacher, student, split, tmp_path
):
    inputs = ClusterInputs(teacher=str(teacher), student=str(student), split=split)
    options = ClusterOptions(router_blend=0.4, xi=0.7, batch_tokens=160)
    again = cluster.run(inputs, options, Output(tmp_path / "again"))
    assert again.manifest.digest == made.manifest.digest
    other = cluster.run(inputs, options.model_copy(update={"batch_tokens": 40}), Output(tmp_path / "other"))
    first, second = made.tensors("student_layers.safetensors"), other.tensors("student_layers.safetensors")
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-3, atol=1e-4)


def test_the_ablation_and_the_alternatives(teacher, student, split, tmp_path):
    inputs = ClusterInputs(teacher=str(teacher), student=str(student), split=split)
    random = cluster.run(inputs, ClusterOptions(assign="random"), Output(tmp_path / "random"))
    for quality in random.report["teacher_layers"].values():
        assert abs(quality["explained"] - quality["random_mean"]) < 0.06
        assert quality["iterations"] == 0
    kept = cluster.run(
        inputs,
        ClusterOptions(router_map="keep", match="index", stability=False, compare_maps=False),
        Output(tmp_path / "kept"),
    )
    old = Qwen3MoeForCausalLM.from_pretrained(student).model.layers[2].mlp.gate.weight.detach()
    tensors = kept.tensors("student_layers.safetensors")
    assert torch.equal(tensors["moe.1.router_rows"], old)
    assert tensors["moe.1.expert_to_cluster"].tolist() == list(range(EXPERTS))
    assert kept.manifest.summary["ridge_r_squared"] is None
    assert kept.manifest.summary["recall"] == kept.manifest.summary["recall_old"]
    for router_map in ("truncate", "random-projection"):
        out = Output(tmp_path / router_map)
        cluster.run(inputs, ClusterOptions(router_map=router_map, weights="gate+up", stability=False), out)


def test_coactivation_groups_neurons_that_fire_together(teacher, student, split, tmp_path):
    """Neurons made pairwise equal in activation, but not in gate rows, end up in one cluster."""
    folder = tmp_path / "twins"
    shutil.copytree(teacher, folder)
    model = Qwen2ForCausalLM.from_pretrained(folder)
    for layer in model.model.layers:
        half = WIDTH // 2
        with torch.no_grad():
            # twins fire alike: the same gate, and an up row that is the opposite at another length
            layer.mlp.gate_proj.weight[half:] = layer.mlp.gate_proj.weight[:half]
            layer.mlp.up_proj.weight[half:] = -3 * layer.mlp.up_proj.weight[:half]
    model.save_pretrained(folder)
    inputs = ClusterInputs(teacher=str(folder), student=str(student), split=split)
    made = cluster.run(
        inputs, ClusterOptions(features="coactivation", weights="up"), Output(tmp_path / "out")
    )
    together = []
    for layer in (1, 2, 3):
        assignment = made.tensors("teacher_layers.safetensors")[f"layer.{layer}.assignment"]
        together.append((assignment[: WIDTH // 2] == assignment[WIDTH // 2 :]).float().mean().item())
    assert np.mean(together) > 0.8
    weights = cluster.run(inputs, ClusterOptions(features="weights", weights="up"), Output(tmp_path / "w"))
    apart = weights.tensors("teacher_layers.safetensors")["layer.1.assignment"]
    assert (apart[: WIDTH // 2] == apart[WIDTH // 2 :]).float().mean() < 0.5


def test_the_clustering_alone_needs_neither_data_nor_student(teacher, tmp_path):
    inputs = ClusterInputs(teacher=str(teacher))
    plan = cluster.plan(inputs, ClusterOptions(clusters=5))
    assert plan.sizes == {"clusters": 5, "teacher layers": TEACHER_LAYERS, "neurons per layer": WIDTH}
    made = cluster.run(inputs, ClusterOptions(clusters=5), Output(tmp_path / "out"))
    assert made.manifest.key == plan.key
    assert set(made.manifest.files) == {"teacher_layers.safetensors", "report.json", "timing.json"}
    assert made.report["uneven_sizes"]
    assert all(layer["selectivity"] is None for layer in made.report["teacher_layers"].values())
    for layer in range(TEACHER_LAYERS):
        sizes = torch.bincount(made.tensors("teacher_layers.safetensors")[f"layer.{layer}.assignment"])
        assert sorted(sizes.tolist()) == [8, 8, 8, 9, 9]


def test_refusals(teacher, student, split, tmp_path):
    def refused(inputs, options, error, match):
        with pytest.raises(error, match=match):
            cluster.plan(ClusterInputs(**inputs), options)

    alone = {"teacher": str(teacher)}
    pair = alone | {"student": str(student), "split": split}
    refused(alone, ClusterOptions(), UsageError, "neither --clusters nor --student")
    refused(alone | {"student": str(student)}, ClusterOptions(), UsageError, "without --split")
    refused(
        alone | {"split": split},
        ClusterOptions(clusters=3, features="weights"),
        UsageError,
        "without --student",
    )
    refused(alone, ClusterOptions(clusters=3, features="coactivation"), UsageError, "no --split")
    refused(
        alone, ClusterOptions(clusters=5, strict_sizes=True), PaddError, "42 neurons do not divide into 5"
    )
    refused(alone, ClusterOptions(clusters=43), PaddError, "42 neurons, which cannot form 43")
    refused(pair, ClusterOptions(clusters=7), PaddError, "--clusters is 7 .* has 6 routed experts")
    refused(pair | {"student": str(teacher)}, ClusterOptions(), PaddError, "names no number of experts")
    refused({"teacher": str(student)}, ClusterOptions(clusters=3), PaddError, "0 stacks of dense FFN layers")
    (tmp_path / "there" / "mine").mkdir(parents=True)
    with pytest.raises(PaddError, match="exists"):
        cluster.run(ClusterInputs(**alone), ClusterOptions(clusters=3), Output(tmp_path / "there"))


def test_a_failed_run_leaves_nothing(teacher, student, split, tmp_path):
    broken = tmp_path / "teacher"
    shutil.copytree(teacher, broken)
    model = Qwen2ForCausalLM.from_pretrained(broken)
    with torch.no_grad():
        model.model.layers[1].mlp.gate_proj.weight[3, 4] = float("nan")
    model.save_pretrained(broken)
    inputs = ClusterInputs(teacher=str(broken), student=str(student), split=split)
    with pytest.raises(PaddError, match="NaN"):
        cluster.run(inputs, ClusterOptions(), Output(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    assert list(tmp_path.glob(".*")) == []


def test_zero_rows_survive_normalisation():
    rows = np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)
    np.testing.assert_allclose(normalise(rows), [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)
