"""Evaluation: every response is kept, graded and counted."""

import json
from pathlib import Path

import pytest

from padd_artifacts.errors import PaddError
from padd_artifacts.writer import Output
from padd_stages import evaluate
from padd_stages.options.evaluate import EvaluateInputs, EvaluateOptions
from padd_stages.rollout.sampling import Response

OPTIONS = {"max_new_tokens": 6, "limit": 5, "samples": 3}


def run(model: Path, problems: Path, out: Path, **options):
    inputs = EvaluateInputs(model=str(model), problems=str(problems))
    return evaluate.run(inputs, EvaluateOptions(**(OPTIONS | options)), Output(out))


def test_a_split_and_a_file_are_evaluated(pico, tmp_path):
    split = run(pico.student, pico.split, tmp_path / "split")
    file = run(pico.teacher, pico.problems, tmp_path / "file")
    for artifact in (split, file):
        rows = artifact.jsonl("responses.jsonl")
        assert len(rows) == 5 * (1 + 3)
        assert {row["mode"] for row in rows} == {"greedy", "sampled"}
        report = artifact.report
        assert report["sampled"]["samples"] == 3
        assert sum(report["greedy"]["reasons"].values()) == 5
        assert report["greedy"]["truncated"] == sum(r["truncated"] for r in rows if r["mode"] == "greedy") / 5
    assert split.report["parameters"]["active"] < split.report["parameters"]["total"]
    assert file.report["parameters"]["active"] == file.report["parameters"]["total"]
    again = run(pico.student, pico.split, tmp_path / "again", generation_batch_tokens=60)
    assert again.manifest.digest == split.manifest.digest


def test_accuracy_is_the_mean_over_problems_and_truncation_scores_zero(pico, tmp_path, monkeypatch):
    """Two problems: one solved by all samples, one by the first of two; a right but truncated response counts 0."""
    problems = tmp_path / "two.jsonl"
    rows = [
        {"id": "a", "problem": "1 + 1 = ?", "answer": "2"},
        {"id": "b", "problem": "2 + 2 = ?", "answer": "4"},
    ]
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = {
        "greedy": ["\\boxed{2}", "\\boxed{4}"],
        "sampled": ["\\boxed{2}", "\\boxed{2}", "\\boxed{4}", "\\boxed{5}"],
    }
    asked: list[str] = []

    def fake_sample(model, requests, sampling, **_):
        mode = "sampled" if sampling.temperature else "greedy"
        start = len(asked)
        asked.extend(texts[mode])
        cut = [False, True] if mode == "greedy" else [False] * 4
        return [Response((start + i,), cut[i]) for i in range(len(requests))]

    monkeypatch.setattr(evaluate, "sample", fake_sample)
    original = evaluate.load_model

    def load(*arguments, **keywords):
        model = original(*arguments, **keywords)
        monkeypatch.setattr(type(model.tokenizer), "decode", lambda self, ids, **_: asked[ids[0]])
        return model

    monkeypatch.setattr(evaluate, "load_model", load)
    report = run(pico.teacher, problems, tmp_path / "out", samples=2).report
    assert report["greedy"]["accuracy"] == 0.5
    assert report["greedy"]["truncated"] == 0.5
    assert report["sampled"]["accuracy"] == 0.75
    assert report["sampled"]["pass_at_k"] == 1.0
    low, high = report["sampled"]["interval"]
    assert 0.5 <= low <= 0.75 <= high <= 1.0


def test_asking_for_nothing_is_refused(pico, tmp_path):
    with pytest.raises(PaddError, match="asks for no response"):
        run(pico.student, pico.split, tmp_path / "out", greedy=False, samples=0)
    assert list(tmp_path.iterdir()) == []
