"""The whole stage on tiny random Qwen3-MoE checkpoints, with artifacts as the stages before it write them."""

import json
import math
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.metrics import normalized_mutual_info_score
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3MoeConfig, Qwen3MoeForCausalLM

from padd_artifacts.artifact import open_artifact
from padd_artifacts.errors import PaddError, UsageError
from padd_artifacts.plan import Plan
from padd_artifacts.work import find
from padd_artifacts.writer import ArtifactWriter, Output
from padd_stages.analyze_experts import figures as expert_figures
from padd_stages.analyze_experts import stage as analyze_experts
from padd_stages.analyze_experts.options import AnalyzeInputs, AnalyzeOptions
from padd_stages.lib.data.subdomains import SUBDOMAINS
from padd_stages.lib.models.loading import load_model
from padd_stages.lib.models.saving import save_model
from padd_stages.lib.options.base import Options

VOCABULARY = "<pad> <eos> <unk> ask find the area of gcd sum 1 2 3 4 5 is so"
WORDS = tuple(VOCABULARY.split())
LAYERS, EXPERTS, TOP_K = 2, 5, 2
SUBJECTS = SUBDOMAINS[:3]


def tiny_checkpoint(folder, seed, experts=EXPERTS):
    torch.manual_seed(seed)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    ).save_pretrained(folder)
    config = Qwen3MoeConfig(
        vocab_size=len(WORDS),
        hidden_size=24,
        intermediate_size=34,
        moe_intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_experts=experts,
        num_experts_per_tok=TOP_K,
        mlp_only_layers=[0],  # so that decoder layer and MoE layer are numbered apart
        initializer_range=0.5,
    )
    Qwen3MoeForCausalLM(config).save_pretrained(folder)
    return str(folder)


def write_artifact(folder, kind, fill):
    with ArtifactWriter(Output(folder), Plan(kind, Options(), {})) as writer:
        fill(writer)
    return folder


def problem_rows():
    generator = np.random.default_rng(0)
    rows = []
    for i in range(18):
        numbers = " ".join(str(n) for n in generator.integers(1, 6, size=int(generator.integers(3, 9))))
        word = ("sum", "area", "gcd")[i % 3]
        row = {"id": str(i), "problem": f"find the {word} of {numbers}", "answer": "1", "extra": {}}
        solution = f"the {word} of {numbers} is {i % 5 + 1}" if i % 4 else None
        rows.append(row | {"solution": solution, "subdomain": SUBJECTS[i % 3]})
    return rows


def fill_clusters(writer, with_student=True, experts=EXPERTS):
    names = list(reversed(SUBDOMAINS))  # an order of its own
    generator = torch.Generator().manual_seed(1)
    tensors = {
        f"moe.{m}.target_subdomain": torch.rand(len(names), experts, generator=generator) + 0.2
        for m in range(LAYERS)
    }
    if with_student:
        writer.write_tensors("student_layers.safetensors", tensors)
    writer.write_json("report.json", {"subdomains": names})


def fill_student(writer, checkpoint):
    student = load_model(checkpoint, moe=True)
    assert student.adapter is not None
    bias = torch.zeros(LAYERS, EXPERTS)
    bias[1, 4] = 1e4  # everything goes there: it is only seen if the saved bias is used
    student.adapter.set_bias(bias)
    save_model(writer.folder, student)
    rows = [{"step": i, "reward": 0.1 * i, "load/max_vio": 0.5} for i in range(4)]
    writer.write_jsonl("metrics.jsonl", rows)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    base, stage1 = tiny_checkpoint(folder / "base", 0), tiny_checkpoint(folder / "stage1", 1)
    return {
        "base": base,
        "stage1": stage1,
        "student": str(write_artifact(folder / "student", "student", lambda w: fill_student(w, stage1))),
        "split": write_artifact(
            folder / "split", "split", lambda w: w.write_jsonl("d.jsonl", problem_rows())
        ),
        "clusters": write_artifact(folder / "clusters", "clusters", fill_clusters),
    }


@pytest.fixture(scope="module")
def result(made, tmp_path_factory):
    output = Output(tmp_path_factory.mktemp("result") / "experts")
    return analyze_experts.run(AnalyzeInputs(**made), AnalyzeOptions(permutations=25), output)


def test_the_artifact_is_whole(result):
    artifact = open_artifact(result.path, "experts")
    figures = {f"figures/{name}.png" for name in ("specialisation", "load", "nmi")}
    numbers = {"report.json", "routing.safetensors", "samples.json"}
    assert set(artifact.manifest.files) == numbers | figures
    assert set(artifact.manifest.parents) == {"student", "stage1", "base", "split", "clusters"}
    for name in artifact.manifest.files:
        if name.endswith(".png"):
            with Image.open(artifact.file(name)) as image:
                assert 600 < image.width < 1400
                assert np.asarray(image.convert("L")).std() > 5  # something is drawn


def test_numbers_come_from_the_counts(result):
    counts = load_file(result.file("routing.safetensors"))
    for role, numbers in result.report["models"].items():
        joint = counts[f"{role}.counts"].numpy()  # (L, N, S)
        assert joint.shape == (LAYERS, EXPERTS, len(SUBDOMAINS))
        expected = []
        for layer, row in zip(joint, numbers["layers"], strict=True):
            experts, subdomains = (
                np.repeat(index.ravel(), layer.ravel()) for index in np.indices(layer.shape)
            )
            expected.append(normalized_mutual_info_score(subdomains, experts, average_method="geometric"))
            assert row["nmi"] == pytest.approx(expected[-1], abs=1e-12)
            assert sum(row["share"]) == pytest.approx(1.0)
            assert row["dead"] == np.flatnonzero(layer.sum(axis=1) == 0).tolist()
        assert numbers["nmi"] == pytest.approx(np.mean(expected))
        assert [row["decoder_layer"] for row in numbers["layers"]] == [1, 2]


def test_counted_tokens_are_the_solutions_else_the_problems(result):
    expected = dict.fromkeys(SUBDOMAINS, 0)
    for row in problem_rows():
        expected[row["subdomain"]] += len((row["solution"] or row["problem"]).split())
    for numbers in result.report["models"].values():
        assert numbers["tokens_by_subdomain"] == expected
        assert numbers["tokens"] == sum(expected.values())


def test_the_saved_bias_is_used(result):
    layer = result.report["models"]["student"]["layers"][1]
    assert layer["share"][4] == pytest.approx(1 / TOP_K)
    assert result.report["models"]["stage1"]["layers"][1]["share"][4] < 1 / TOP_K
    first, same = (result.report["models"][role]["layers"][0] for role in ("stage1", "student"))
    assert (first["share"], first["nmi"]) == (same["share"], same["nmi"])


def test_summary_is_the_students(result):
    summary, numbers = result.manifest.summary, result.report["models"]["student"]
    for name in ("nmi", "esi", "load_entropy", "max_vio", "dead_experts"):
        assert summary[name] == numbers[name]
    assert summary["nmi_permutation_high"] == numbers["nmi_shuffled_tokens"]["high"]
    assert numbers["nmi_shuffled_tokens"]["low"] <= numbers["nmi_shuffled_tokens"]["high"]
    agreement = numbers["cluster_agreement"]
    assert -1 <= agreement["correlation"] <= 1
    assert len(agreement["layers"]) == LAYERS


def test_same_digest_again_and_in_other_batches(made, result, tmp_path):
    options = AnalyzeOptions(permutations=25, batch_tokens=40)
    again = analyze_experts.run(AnalyzeInputs(**made), options, Output(tmp_path / "again"))
    assert again.manifest.key == result.manifest.key
    counts, others = (load_file(a.file("routing.safetensors")) for a in (again, result))
    assert torch.equal(counts["base.counts"], others["base.counts"])
    same = analyze_experts.run(
        AnalyzeInputs(**made), AnalyzeOptions(permutations=25), Output(tmp_path / "same")
    )
    assert same.manifest.digest == result.manifest.digest


def test_clusters_are_read_by_the_names_of_their_subdomains(made, tmp_path, monkeypatch):
    drawn = Mock(wraps=expert_figures.specialisation_heatmaps)
    monkeypatch.setattr(expert_figures, "specialisation_heatmaps", drawn)
    options = AnalyzeOptions(permutations=20, layer=2)
    artifact = analyze_experts.run(AnalyzeInputs(**made), options, Output(tmp_path / "out"))
    panels, names = drawn.call_args.args
    assert artifact.report["shown_decoder_layer"] == 2
    assert names == list(SUBJECTS)
    assert [panel.title for panel in panels] == [
        "teacher clusters",
        "student after Stage I",
        "student after all stages",
    ]
    target = open_artifact(made["clusters"]).tensors("student_layers.safetensors")["moe.1.target_subdomain"]
    rows = target.flip(0).double().numpy()
    np.testing.assert_allclose(panels[0].values, np.log2(rows / rows.mean(axis=0))[:3])


def test_any_moe_with_a_file_of_problems(made, tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_text(
        "".join(json.dumps({"problem": f"find the {word}"}) + "\n" for word in ("area", "gcd", "sum") * 3)
    )
    inputs = AnalyzeInputs(student=made["base"], problems=path)
    artifact = analyze_experts.run(
        inputs, AnalyzeOptions(max_problems=6, permutations=20), Output(tmp_path / "out")
    )
    assert artifact.report["models"]["student"]["problems"] == 6
    assert set(artifact.manifest.parents) == {"student", "problems"}
    assert "cluster_agreement" not in artifact.report["models"]["student"]


def test_one_subdomain_tells_nothing_and_says_so(made, tmp_path):
    reporter = Mock()
    path = tmp_path / "problems.jsonl"
    path.write_text('{"problem": "find the sum", "subdomain": "algebra"}\n' * 3)
    inputs = AnalyzeInputs(student=made["base"], problems=path, clusters=made["clusters"])
    artifact = analyze_experts.run(
        inputs, AnalyzeOptions(permutations=20), Output(tmp_path / "out"), reporter
    )
    assert artifact.manifest.summary["nmi"] is None
    assert artifact.manifest.summary["nmi_permutation_high"] is None
    assert math.isfinite(artifact.manifest.summary["max_vio"])
    assert "one subdomain" in reporter.warn.call_args.args[0]


def changed_experts(made, tmp_path):
    return {**made, "base": tiny_checkpoint(tmp_path / "other", 3, experts=6)}


def clusters_without_student(made, tmp_path):
    folder = write_artifact(tmp_path / "alone", "clusters", lambda w: fill_clusters(w, with_student=False))
    return {**made, "clusters": folder}


def clusters_of_another(made, tmp_path):
    folder = write_artifact(tmp_path / "another", "clusters", lambda w: fill_clusters(w, experts=7))
    return {**made, "clusters": folder}


def changed_byte(made, tmp_path):
    folder = write_artifact(tmp_path / "split", "split", lambda w: w.write_jsonl("d.jsonl", problem_rows()))
    (folder / "d.jsonl").write_text("{}\n")
    return {**made, "split": folder}


def empty_split(made, tmp_path):
    return {
        **made,
        "split": write_artifact(tmp_path / "split", "split", lambda w: w.write_jsonl("d.jsonl", [])),
    }


REFUSALS = [
    (changed_experts, {}, PaddError, "6 experts .* 2 of 5"),
    (clusters_without_student, {}, PaddError, "without a student"),
    (clusters_of_another, {}, PaddError, r"\(7, 7\) .* \(7, 5\)"),
    (changed_byte, {}, PaddError, "has changed"),
    (empty_split, {}, PaddError, "no problem"),
    (lambda made, _: {"student": made["base"]}, {}, UsageError, "--split nor --problems"),
    (lambda made, _: made, {"layer": 0}, UsageError, "MoE layers are 1, 2"),
    (
        lambda made, _: {"student": made["base"], "split": made["split"]},
        {"max_tokens": 1},
        PaddError,
        "--max-tokens 1",
    ),
]


@pytest.mark.parametrize(("change", "options", "error", "words"), REFUSALS)
def test_refusals_leave_nothing_behind(made, tmp_path, change, options, error, words):
    out = tmp_path / "out"
    inputs = AnalyzeInputs(**change(made, tmp_path))
    with pytest.raises(error, match=words) as caught:
        analyze_experts.run(inputs, AnalyzeOptions(permutations=20, **options), Output(out))
    assert "\n" not in str(caught.value)
    assert not out.exists()
    assert find(out) == []


def test_plan_names_its_parents_and_sizes(made):
    plan = analyze_experts.plan(AnalyzeInputs(**made), AnalyzeOptions())
    assert plan.sizes == {"problems": 18, "models": 3}
    assert plan.kind == "experts"
    other = analyze_experts.plan(AnalyzeInputs(**made), AnalyzeOptions(batch_tokens=7))
    assert other.key == plan.key
    assert analyze_experts.plan(AnalyzeInputs(**made), AnalyzeOptions(seed=1)).key != plan.key
