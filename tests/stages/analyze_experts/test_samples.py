"""Texts with the expert of every token."""

import pytest
import torch

from padd_artifacts.manifest import Parent
from padd_artifacts.plan import Plan
from padd_artifacts.writer import ArtifactWriter, Output
from padd_stages.analyze_experts import samples
from padd_stages.analyze_experts.samples import Sample, pick_samples, samples_json
from padd_stages.analyze_experts.texts import Row
from padd_stages.lib.models.loading import LanguageModel
from padd_stages.lib.models.moe_adapter import MoEAdapter
from padd_stages.lib.options.base import Options

ROWS = [
    Row("find the sum of 1 2", "the sum is 3", "algebra", None),
    Row("find the sum of 2 2", None, "algebra", None),
    Row("find the area of a", None, "geometry", None),
]


def test_without_responses_rows_of_different_subdomains(tmp_path):
    expected = [
        Sample("find the sum of 1 2", "the sum is 3", "algebra", None),
        Sample("find the area of a", "", "geometry", None),
    ]
    assert pick_samples(str(tmp_path), ROWS) == expected
    assert pick_samples("owner/name", ROWS) == expected


def test_a_trained_students_last_responses_one_a_problem(tmp_path):
    def row(step, prompt, reward):
        return {"step": step, "prompt": prompt, "response": f"so {step}", "reward": reward}

    rows = [row(step, f"find the gcd of {step // 2}", step / 20) for step in range(20)]
    with ArtifactWriter(Output(tmp_path / "student"), Plan("student", Options(), {})) as writer:
        writer.write_jsonl("samples.jsonl", rows)
    chosen = pick_samples(str(tmp_path / "student"), ROWS)
    assert [sample.problem[-1] for sample in chosen] == ["9", "8", "7", "6", "5", "4"]
    assert chosen[0] == Sample("find the gcd of 9", "so 19", "number theory", 0.95)


@pytest.fixture
def student(model, tokenizer):
    adapter = MoEAdapter.attach(model)
    adapter.set_bias(torch.linspace(-1, 1, 10).view(2, 5))
    return LanguageModel(model, tokenizer, Parent(kind="model", digest="0"), adapter)


@pytest.mark.parametrize("limit", [99, 9])
def test_each_token_has_its_piece_and_its_first_expert(student, alone, tokenizer, monkeypatch, limit):
    monkeypatch.setattr(samples, "SAMPLE_TOKENS", limit)
    sample = Sample("find the sum of 1 2", " the sum is 3 ", "algebra", 0.5)
    report = samples_json(alone(student), [sample], system="", thinking=False)
    assert report["layers"] == [1, 2]
    (shown,) = report["samples"]
    text = "ask find the sum of 1 2 reply  the sum is 3 "
    ids = tokenizer(text)["input_ids"][:limit]
    length = min(12, limit)
    assert (shown["problem"], shown["subdomain"], shown["reward"]) == (sample.problem, "algebra", 0.5)
    assert len(shown["tokens"]) == len(ids) == length
    assert text.startswith("".join(shown["tokens"]))
    assert ("".join(shown["tokens"]) == text) == (limit == 99)
    assert [piece.strip() for piece in shown["tokens"]] == tokenizer.convert_ids_to_tokens(ids)
    assert shown["prompt_tokens"] == min(8, limit)
    with torch.no_grad():
        logits = student.model(torch.tensor([ids]), output_router_logits=True).router_logits
    probs = torch.stack(logits).softmax(-1)  # the adapter's hook has added the bias
    assert shown["experts"] == probs.argmax(-1).tolist()
    assert torch.tensor(shown["probability"]) == pytest.approx(probs.amax(-1), abs=6e-4)
