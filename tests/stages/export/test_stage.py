"""`padd export`: a stock checkpoint that routes like the student, and a report that says how often."""

import shutil

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from padd_artifacts.artifact import open_artifact
from padd_artifacts.errors import UsageError
from padd_artifacts.writer import Output
from padd_stages.export import stage as export
from padd_stages.export.options import ExportInputs, ExportOptions
from padd_stages.lib.models.loading import load_model
from padd_stages.lib.models.saving import save_model


@pytest.fixture
def student(pico, tmp_path):
    """The pico student's folder with the bias that is asked for."""

    def make(bias):
        loaded = load_model(str(pico.student), moe=True)
        loaded.adapter.set_bias(bias)
        shutil.rmtree(tmp_path / "student", ignore_errors=True)
        save_model(tmp_path / "student", loaded)
        return tmp_path / "student"

    return make


def run(folder, split, out, **options):
    inputs = ExportInputs(student=str(folder), split=split)
    return export.run(inputs, ExportOptions(system="", **options), Output(out))


def routed_natively(artifact, split):
    """(L, tokens, K) choices of the checkpoint in transformers alone on a solved problem of D_D, in numeric order."""
    row = open_artifact(split, "split").jsonl("d.jsonl")[0]
    tokenizer = AutoTokenizer.from_pretrained(artifact.path)
    ids = tokenizer(row["problem"] + row["solution"], return_tensors="pt")["input_ids"]
    model = AutoModelForCausalLM.from_pretrained(artifact.path).eval()
    with torch.no_grad():
        logits = model(ids, output_router_logits=True).router_logits
    return torch.stack([layer.topk(2, dim=-1).indices.sort(dim=-1).values for layer in logits])


def test_a_folded_student_routes_alike_in_transformers_alone(student, pico, tmp_path):
    """Two experts so favoured that they always win: transformers alone must choose them too."""
    bias = torch.zeros(2, 5)
    bias[0, [1, 4]] = bias[1, [0, 2]] = 30.0
    artifact = run(student(bias), pico.split, tmp_path / "out")
    assert not hasattr(AutoConfig.from_pretrained(artifact.path), "padd")
    chosen = routed_natively(artifact, pico.split)
    assert (chosen[0] == torch.tensor([1, 4])).all(-1).float().mean() > 0.9
    assert (chosen[1] == torch.tensor([0, 2])).all(-1).float().mean() > 0.9
    report = artifact.report
    assert report["bias"] == "folded"
    assert report["same_top_k"] > 0.95
    assert report["same_top_k_without_bias"] < 0.5
    assert len(report["layers"]) == 2
    assert report["held_out_tokens"] > 0


def test_the_report_counts_equal_sets_of_experts(student, pico, tmp_path):
    """A bias far below every difference of two logits changes no choice, folded or dropped."""
    report = run(student(torch.full((2, 5), 1e-12)), pico.split, tmp_path / "out").report
    assert (report["same_top_k"], report["same_top_k_without_bias"]) == (1.0, 1.0)


def test_a_student_without_a_bias_is_copied(student, pico, tmp_path):
    artifact = run(student(torch.zeros(2, 5)), None, tmp_path / "out")
    assert artifact.report == {"bias": "none"}
    stock, before = (
        AutoModelForCausalLM.from_pretrained(f).state_dict() for f in (artifact.path, pico.student)
    )
    assert [name for name in before if not torch.equal(stock[name], before[name])] == []


def test_a_fold_without_text_is_refused_and_leaves_nothing(student, tmp_path):
    with pytest.raises(UsageError, match="name a split artifact with --split"):
        run(student(torch.ones(2, 5).tril()), None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_too_little_text_to_judge_by_is_refused(student, pico, tmp_path):
    with pytest.raises(UsageError, match="raise --max-tokens"):
        run(student(torch.ones(2, 5).tril()), pico.split, tmp_path / "out", max_tokens=1)
