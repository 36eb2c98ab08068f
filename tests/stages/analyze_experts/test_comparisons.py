"""What analyze-experts says of pairs of checkpoints and of the clusters' teacher, on the pico pair."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from padd_artifacts.errors import PaddError, UsageError
from padd_artifacts.writer import Output
from padd_stages.analyze_experts import stage as analyze_experts
from padd_stages.analyze_experts.options import AnalyzeInputs, AnalyzeOptions
from padd_stages.lib.models.loading import load_model, load_tokenizer
from padd_stages.lib.models.saving import save_model
from padd_stages.toy.tokenizer import build_tokenizer

LAYERS, EXPERTS = 2, 5
OPTIONS = AnalyzeOptions(permutations=20, probe_tokens=300)


@pytest.fixture(scope="module")
def moved(pico, tmp_path_factory):
    """The pico student with a bias on its second layer alone: one expert is never chosen there, one always."""
    student = load_model(str(pico.student), moe=True)
    assert student.adapter is not None
    bias = torch.zeros(LAYERS, EXPERTS)
    bias[1, 2], bias[1, 3] = -50.0, 50.0
    student.adapter.set_bias(bias)
    student.ema = torch.arange(LAYERS * EXPERTS).view(LAYERS, EXPERTS).float()
    folder = tmp_path_factory.mktemp("moved") / "student"
    save_model(folder, student)
    return folder


@pytest.fixture(scope="module")
def result(pico, clusters, moved, tmp_path_factory):
    inputs = AnalyzeInputs(
        student=str(moved),
        base=str(pico.student),
        teacher=str(pico.teacher),
        clusters=clusters,
        split=pico.split,
    )
    return analyze_experts.run(inputs, OPTIONS, Output(tmp_path_factory.mktemp("result") / "experts"))


def test_a_pair_differs_where_the_bias_moved_it(result):
    (shift,) = result.report["shifts"]
    assert (shift["from"], shift["to"]) == ("base", "student")
    assert 200 < shift["tokens"] <= 300
    assert shift["mean_by_layer"][0] == 0.0
    assert shift["mean_by_layer"][1] > 0.5
    assert shift["mean"] == pytest.approx(np.mean(shift["mean_by_layer"]))
    assert shift["same_top_k_by_layer"][0] == shift["jaccard"][0] == 1.0
    assert shift["path_consistency"] == shift["same_top_k_by_layer"][1] < 1.0
    assert len(shift["quantiles"]) == 101
    assert shift["quantiles"] == sorted(shift["quantiles"])


def test_tensors_of_models_and_pairs(result, pico):
    tensors = load_file(result.file("routing.safetensors"))
    flow = tensors["base.student.flow"]
    assert flow.sum(dim=(1, 2)).tolist() == [result.report["shifts"][0]["tokens"]] * LAYERS
    assert torch.equal(flow[0], torch.diag(flow[0].diagonal()))
    assert torch.equal(flow[1].sum(dim=0), flow[1][:, 3].sum() * torch.eye(EXPERTS, dtype=torch.int32)[3])
    assert tensors["student.bias"][1, 3] == 50.0
    assert tensors["student.quality"].flatten().tolist() == list(range(LAYERS * EXPERTS))
    assert "base.bias" not in tensors
    assert "base.quality" not in tensors
    for role in ("base", "student"):
        shares = [layer["share"] for layer in result.report["models"][role]["layers"]]
        torch.testing.assert_close(tensors[f"{role}.load"], torch.tensor(shares))
        for kind in ("activations", "weights"):
            alike = tensors[f"{role}.similarity_{kind}"].float()
            assert alike.shape == (LAYERS, EXPERTS, EXPERTS)
            torch.testing.assert_close(alike, alike.mT)
            torch.testing.assert_close(alike.diagonal(dim1=1, dim2=2), torch.ones(LAYERS, EXPERTS))
    # without other weights experts are as alike as before
    assert torch.equal(tensors["base.similarity_weights"], tensors["student.similarity_weights"])


def test_paths_of_the_student_go_through_the_wanted_expert(result):
    paths = result.report["models"]["student"]["paths"]
    assert paths["tokens"] == result.report["models"]["student"]["tokens"]
    assert all(3 in row["path"][1] and 2 not in row["path"][1] for row in paths["top"])
    assert paths["distinct"] <= 10 * 3  # pairs of five experts, then expert 3 with one of three
    assert sum(row["share"] for row in paths["top"]) <= 1.0


def test_the_teacher_is_compared_token_by_token(result):
    base, student = (result.report["models"][role]["cluster_agreement"] for role in ("base", "student"))
    assert base["measure"] == student["measure"] == "activations over tokens"
    # tokens of the two tokenizers end at other places
    assert 100 < base["tokens"] <= result.report["shifts"][0]["tokens"]
    # the bias changes nothing before it: the first layer's experts do what they did
    assert base["layers"][0] == student["layers"][0]
    assert all(layer["random_pairing"]["low"] < layer["random_pairing"]["high"] for layer in base["layers"])


def test_without_a_teacher_profiles_are_compared(pico, clusters, tmp_path):
    inputs = AnalyzeInputs(student=str(pico.student), clusters=clusters, split=pico.split)
    report = analyze_experts.run(inputs, OPTIONS, Output(tmp_path / "out")).report
    agreement = report["models"]["student"]["cluster_agreement"]
    assert agreement["measure"] == "profiles over subdomains"
    assert agreement["tokens"] == report["models"]["student"]["tokens"]
    assert report["shifts"] == []


def test_samples_and_labels(result):
    samples = json.loads(result.file("samples.json").read_text())
    assert samples["layers"] == [0, 1]
    assert 1 < len(samples["samples"]) <= 6
    for sample in samples["samples"]:
        assert sample["problem"] in "".join(sample["tokens"])
        assert all(len(layer) == len(sample["tokens"]) for layer in sample["experts"] + sample["probability"])
        assert set(sample["experts"][1]) == {3}
        assert 0 < sample["prompt_tokens"] < len(sample["tokens"])
    assert len({sample["subdomain"] for sample in samples["samples"]}) == len(samples["samples"])
    classifier = result.report["classifier"]
    assert classifier["source"] == "labels"
    assert classifier["labelled"] == result.report["models"]["student"]["problems"]


def other_tokenizer(pico, tmp_path):
    folder = tmp_path / "other"
    AutoModelForCausalLM.from_pretrained(pico.student).save_pretrained(folder)
    tokenizer = build_tokenizer(5)
    assert tokenizer.get_vocab() != load_tokenizer(str(pico.student)).get_vocab()
    tokenizer.save_pretrained(folder)
    return str(folder)


def other_top_k(pico, tmp_path):
    folder = tmp_path / "top1"
    shutil.copytree(pico.student, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_experts_per_tok": 1}))
    return str(folder)


def without_tokenizer(pico, tmp_path):
    folder = tmp_path / "bare"
    AutoModelForCausalLM.from_pretrained(pico.student).save_pretrained(folder)
    return str(folder)


def test_refusals(pico, clusters, tmp_path):
    given = {"student": str(pico.student), "split": pico.split}
    cases = [
        ({"teacher": str(pico.teacher)}, UsageError, "without --clusters"),
        ({"teacher": str(pico.student), "clusters": clusters}, PaddError, "was made for teacher"),
        ({"base": other_tokenizer(pico, tmp_path)}, PaddError, "other tokens than the student"),
        ({"base": other_top_k(pico, tmp_path)}, PaddError, "1 of 5 experts active and the student is"),
        ({"base": without_tokenizer(pico, tmp_path)}, PaddError, "put the model's tokenizer files"),
    ]
    for changes, error, words in cases:
        with pytest.raises(error, match=words) as caught:
            analyze_experts.run(AnalyzeInputs(**given, **changes), OPTIONS, Output(tmp_path / "out"))
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()
