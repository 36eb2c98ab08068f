"""Evaluation of a model: every response is kept, graded and counted; an interrupted run goes on."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from vllm_server import VllmServer

from padd_artifacts.artifact import Artifact
from padd_artifacts.errors import PaddError, UsageError
from padd_artifacts.work import find
from padd_artifacts.writer import Output
from padd_cli.commands.verify import check_parents
from padd_stages.evaluate import generation as asking
from padd_stages.evaluate import stage as evaluate
from padd_stages.evaluate.options import EvaluateInputs, EvaluateOptions
from padd_stages.lib.models.loading import load_model
from padd_stages.lib.models.saving import save_model
from padd_stages.lib.sampling import server as http
from padd_stages.lib.sampling.responses import Response

OPTIONS = {"max_new_tokens": 6, "limit": 5, "samples": 3}
ROW = ["benchmark", "id", "mode", "sample", "problem", "answer", "response", "extracted", "correct", "reason"]
ROW += ["score", "tokens", "truncated", "subject", "level"]


def run(model: Path, problems: Path | None, out: Path, resume: bool = False, **given: Any) -> Artifact:
    names = EvaluateInputs.model_fields
    inputs = {name: given.pop(name) for name in list(given) if name in names}
    if problems is not None:
        inputs["problems"] = str(problems)
    options = EvaluateOptions(**(OPTIONS | given))
    return evaluate.run(EvaluateInputs(model=str(model), **inputs), options, Output(out, resume=resume))


def test_a_split_and_a_file_are_evaluated(pico, tmp_path):
    split = run(pico.student, pico.split, tmp_path / "split")
    file = run(pico.teacher, pico.problems, tmp_path / "file")
    for artifact, name in ((split, "d"), (file, "problems")):
        rows = artifact.jsonl("responses.jsonl")
        assert len(rows) == 5 * (1 + 3)
        assert all(list(row) == ROW for row in rows)
        assert {(row["benchmark"], row["mode"]) for row in rows} == {(name, "greedy"), (name, "sampled")}
        report = artifact.report["benchmarks"][name]
        assert (report["problems"], report["sampled"]["samples"]) == (5, 3)
        assert sum(report["greedy"]["reasons"].values()) == 5
        assert report["greedy"]["truncated"] == sum(r["truncated"] for r in rows if r["mode"] == "greedy") / 5
        assert "verdicts.jsonl" not in artifact.manifest.files
    assert split.report["parameters"]["active"] < split.report["parameters"]["total"]
    assert file.report["parameters"]["active"] == file.report["parameters"]["total"]
    assert all(row["subject"] for row in split.jsonl("responses.jsonl"))
    again = run(pico.student, pico.split, tmp_path / "again", generation_batch_tokens=60)
    assert again.manifest.digest == split.manifest.digest


@pytest.fixture
def benchmarks(pico, tmp_path) -> Path:
    """A folder with two benchmarks of toy problems: one greedy, one sampled."""
    lines = pico.problems.read_text().splitlines()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "math500.jsonl").write_text("\n".join(lines[:3]))
    (tmp_path / "data" / "aime24.jsonl").write_text("\n".join(lines[3:5]))
    return tmp_path / "data"


def test_several_benchmarks_in_one_load(pico, benchmarks, tmp_path, monkeypatch):
    loads, calls = [], []
    original, respond = evaluate.read_benchmark, asking.respond
    monkeypatch.setattr(evaluate, "read_benchmark", lambda *a: loads.append(a[0]) or original(*a))
    monkeypatch.setattr(
        asking, "respond", lambda *a, **k: calls.append((a[3], len(a[2]))) or respond(*a, **k)
    )
    names = ["math500", "aime24"]
    artifact = run(
        pico.student, pico.split, tmp_path / "out", benchmark=names, benchmark_dir=benchmarks, samples=None
    )
    assert loads == names
    # all greedy responses share their batches, whatever benchmark they are of
    assert [(each.temperature, count) for each, count in calls] == [(0.0, 5 + 3), (0.6, 2 * 32)]
    report = artifact.report
    assert list(report["benchmarks"]) == ["d", "math500", "aime24"]
    assert [entry["headline"] for entry in report["benchmarks"].values()] == ["greedy", "greedy", "sampled"]
    assert report["benchmarks"]["aime24"]["sampled"]["samples"] == 32
    states = {check.role: check.state for check in check_parents(artifact)}
    unchecked = dict.fromkeys(["benchmark.math500", "benchmark.aime24"], "not checked")
    assert states == {"model": "matches", "problems": "matches", **unchecked}


def test_a_hub_data_set_goes_by_its_name(pico, tmp_path, monkeypatch):
    rows = [{"problem": "1 + 1 = ?", "answer": "2"}]
    monkeypatch.setattr("datasets.load_dataset", lambda name, config, *, split: rows)
    report = run(pico.student, Path("someone/sums/easy:test"), tmp_path / "out").report
    assert list(report["benchmarks"]) == ["sums"]


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
    said: list[str] = []

    def fake_respond(policy, model, requests, sampling, *, on_batch, **_):
        mode = "sampled" if sampling.temperature else "greedy"
        start = len(said)
        said.extend(texts[mode])
        cut = [False, True] if mode == "greedy" else [False] * 4
        on_batch(list(range(len(requests))), [Response((start + i,), c) for i, c in enumerate(cut)])

    def decode(self, ids, **_):
        return said[ids[0]]

    monkeypatch.setattr(asking, "respond", fake_respond)
    monkeypatch.setattr("transformers.PreTrainedTokenizerFast.decode", decode)
    artifact = run(pico.teacher, problems, tmp_path / "out", samples=2)
    report = artifact.report["benchmarks"]["two"]
    assert report["greedy"]["accuracy"] == 0.5
    assert report["greedy"]["truncated"] == 0.5
    assert report["greedy"]["reasons"] == {"match": 1, "truncated": 1}
    assert report["sampled"]["accuracy"] == 0.75
    assert report["sampled"]["pass_at_k"] == {"1": 0.75, "2": 1.0}
    low, high = report["sampled"]["interval"]
    assert 0.5 <= low <= 0.75 <= high <= 1.0


def test_what_goes_wrong_is_refused_before_anything_is_written(pico, benchmarks, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="ask for no response to d"):
        run(pico.student, pico.split, tmp_path / "out", greedy=False, samples=0)
    twice = {"benchmark": ["math500"], "benchmark_dir": benchmarks}
    with pytest.raises(UsageError, match="two sets of problems are named 'math500'"):
        run(pico.student, benchmarks / "math500.jsonl", tmp_path / "out", **twice)
    assert sorted(tmp_path.rglob("*")) == before


# Dies in the middle of the third line of the journal.
KILLED = """
import os, signal, sys
from padd_stages.lib.runtime import journal

class Deadly(journal.Journal):
    lines = 0
    def add(self, value):
        size = self.path.stat().st_size if self.path.exists() else 0
        super().add(value)
        Deadly.lines += 1
        if Deadly.lines == 3:
            os.truncate(self.path, (size + self.path.stat().st_size) // 2)
            os.kill(os.getpid(), signal.SIGKILL)

journal.Journal = Deadly
from padd_cli.app import main
main(sys.argv[1:])
"""


def test_a_killed_run_goes_on_and_ends_byte_for_byte_like_a_whole_one(pico, tmp_path, monkeypatch):
    settings = {"generation_batch_tokens": 250, "temperature": 1.0}
    whole = run(pico.student, pico.split, tmp_path / "whole", **settings)
    out = tmp_path / "out"
    argv = ["eval", "--model", pico.student, "--problems", pico.split, "--out", out]
    argv += [
        word
        for name, value in (OPTIONS | settings).items()
        for word in (f"--{name.replace('_', '-')}", value)
    ]
    done = subprocess.run([sys.executable, "-c", KILLED, *map(str, argv)], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    [left] = find(out)
    lines = (left.artifact / "journal.jsonl").read_bytes().splitlines()[:2]
    kept = sum(len(json.loads(line)) for line in lines)
    asked = []
    respond = asking.respond
    monkeypatch.setattr(asking, "respond", lambda *a, **k: asked.extend(a[2]) or respond(*a, **k))
    resumed = run(pico.student, pico.split, out, resume=True, **settings)
    assert 0 < kept < 5 * 4
    assert len(asked) == len(set(asked)) == 5 * 4 - kept
    assert set(resumed.manifest.files) == set(whole.manifest.files)
    for name in whole.manifest.files:
        assert resumed.file(name).read_bytes() == whole.file(name).read_bytes()
    assert resumed.manifest.digest == whole.manifest.digest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]
    assert sorted(os.listdir(out)) == sorted(os.listdir(tmp_path / "whole"))


def test_a_server_answers_as_the_model_does(pico, tmp_path):
    mine = run(pico.student, pico.split, tmp_path / "mine")
    with VllmServer(pico.student) as server:
        there = {"engine": "vllm", "engine_url": server.url}
        served = run(pico.student, pico.split, tmp_path / "served", **there)
        with pytest.raises(PaddError, match="--served-model-name teacher"):
            run(pico.teacher, pico.split, tmp_path / "other", **there)
    assert served.jsonl("responses.jsonl") == mine.jsonl("responses.jsonl")
    assert served.report == mine.report | {"engine": "vLLM 0.33.0"}


def test_an_evaluation_whose_server_dies_is_resumed(pico, tmp_path, monkeypatch):
    monkeypatch.setattr(http, "PAUSES", (0.0, 0.01))
    with VllmServer(pico.student) as whole, VllmServer(pico.student) as dying:
        dying.faults["die"] = 7
        with pytest.raises(PaddError, match=r"--resume\.$"):
            run(pico.student, pico.split, tmp_path / "out", engine="vllm", engine_url=dying.url)
        asked = whole.calls["/v1/completions"]
        artifact = run(
            pico.student, pico.split, tmp_path / "out", resume=True, engine="vllm", engine_url=whole.url
        )
        assert whole.calls["/v1/completions"] - asked < 20, "what came before is kept"
    assert len(artifact.jsonl("responses.jsonl")) == 20


def test_a_router_bias_that_no_server_knows_is_refused(pico, tmp_path):
    student = load_model(str(pico.student))
    assert student.adapter is not None
    student.adapter.set_bias(torch.ones_like(student.adapter.bias))
    save_model(tmp_path / "student", student)
    with VllmServer(pico.student, name="student") as server, pytest.raises(PaddError, match="padd export"):
        run(tmp_path / "student", pico.split, tmp_path / "out", engine="vllm", engine_url=server.url)
