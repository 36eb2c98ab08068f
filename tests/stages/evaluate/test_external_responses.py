"""Responses of another engine are graded as they are, without a model and without torch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from padd_artifacts.artifact import Artifact, open_artifact
from padd_artifacts.errors import PaddError, UsageError
from padd_artifacts.writer import Output
from padd_stages.evaluate import stage as evaluate
from padd_stages.evaluate.options import EvaluateInputs, EvaluateOptions

ROWS: list[dict[str, Any]] = [
    {"id": "a", "answer": "2", "response": "so \\boxed{2}", "subject": "x", "level": 1, "tokens": 7},
    {"id": 5, "answer": 0.5, "response": "\\boxed{\\frac{1}{2}}", "subject": "y"},
    {"id": "c", "answer": ["3", "three"], "response": "\\boxed{4}"},
    {"id": "d", "answer": "3", "response": "no idea"},
    {"id": "e", "answer": "3", "response": "\\boxed{3}", "truncated": True},
]


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def grade(folder: Path, rows: list[dict[str, Any]], **options: Any) -> Artifact:
    inputs = EvaluateInputs(responses=write(folder, rows))
    return evaluate.run(inputs, EvaluateOptions(**options), Output(folder / "out"))


def test_every_row_gets_a_verdict(tmp_path: Path) -> None:
    artifact = grade(tmp_path, ROWS)
    assert artifact.jsonl("verdicts.jsonl")[:4] == [
        {"id": "a", "extracted": "2", "verdict": True, "reason": "match", "score": 1.0},
        {"id": 5, "extracted": "\\frac{1}{2}", "verdict": True, "reason": "match", "score": 1.0},
        {"id": "c", "extracted": "4", "verdict": False, "reason": "different", "score": 0.0},
        {"id": "d", "extracted": None, "verdict": False, "reason": "no-answer", "score": 0.0},
    ]
    last = artifact.jsonl("verdicts.jsonl")[4]
    assert (last["verdict"], last["reason"], last["score"]) == (False, "truncated", 0.0)
    found = artifact.report["benchmarks"]["mine"]
    assert (found["headline"], found["greedy"]["accuracy"]) == ("greedy", 0.4)
    assert found["greedy"]["subjects"]["x"]["accuracy"] == 1.0
    assert found["greedy"]["tokens"] == {"mean": 7.0, "median": 7.0, "max": 7}
    rows = artifact.jsonl("responses.jsonl")
    assert [(row["id"], row["mode"], row["level"]) for row in rows][:2] == [
        ("a", "greedy", "1"), (5, "greedy", None),
    ]  # fmt: skip


def test_rows_of_one_id_are_samples_of_one_problem(tmp_path: Path) -> None:
    texts = {"a": ["1", "2", "1", "1"], "b": ["2", "2", "2", "1"]}
    rows = [
        {"id": name, "answer": "1", "response": f"\\boxed{{{texts[name][sample]}}}"}
        for sample in range(4)
        for name in texts
    ]
    found = grade(tmp_path, rows)
    sampled = found.report["benchmarks"]["mine"]["sampled"]
    assert (sampled["accuracy"], sampled["samples"], sampled["maj_at_k"]) == (0.5, 4, 0.5)
    assert sampled["pass_at_k"] == {"1": 0.5, "2": pytest.approx(0.75), "4": 1.0}
    assert [row["sample"] for row in found.jsonl("responses.jsonl")] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [row["id"] for row in found.jsonl("verdicts.jsonl")] == ["a", "b"] * 4


def test_limit_and_extract(tmp_path: Path) -> None:
    rows = [{"id": i, "answer": "4", "response": "The answer is 4."} for i in range(3)]
    report = grade(tmp_path, rows, limit=2, extract="any").report["benchmarks"]["mine"]
    assert (report["problems"], report["greedy"]["accuracy"]) == (2, 1.0)


def test_text_that_is_no_text(tmp_path: Path) -> None:
    rows = [{"id": 1, "answer": "4", "response": "\ud800 \x00 \\boxed{4}"}]
    assert grade(tmp_path, rows).jsonl("verdicts.jsonl")[0]["verdict"] is True


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"id": "b", "response": "x"}, "row 2 of .* has no answer,"),
        ({"answer": "1"}, "row 2 of .* has no id and no response"),
        ({"id": "b", "answer": "1", "response": ["x"]}, "response of row 2 .* is a list"),
        ({"id": {}, "answer": "1", "response": "x"}, "id of row 2 .* is a dict"),
        ({"id": "b", "answer": "", "response": "x"}, "gold answer '' is empty"),
        ({"id": "a", "answer": "3", "response": "x"}, "row 2 of .* gives problem 'a' another answer"),
    ],
)
def test_rows_that_cannot_be_graded(tmp_path: Path, row: dict[str, Any], words: str) -> None:
    with pytest.raises(PaddError, match=words):
        grade(tmp_path, [ROWS[0], row])
    assert [path.name for path in tmp_path.iterdir()] == ["mine.jsonl"]


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"responses": "r.jsonl", "model": "m", "problems": "p"}, "--model and --problems would be left out"),
        ({}, "neither --model nor --responses"),
        ({"model": "m"}, "neither --benchmark nor --problems"),
    ],
)
def test_inputs_that_do_not_go_together(tmp_path: Path, inputs: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        evaluate.run(EvaluateInputs(**inputs), EvaluateOptions(), Output(tmp_path / "out"))


def test_the_command_needs_no_torch(tmp_path: Path) -> None:
    program = (
        "import sys; from padd_cli.app import exit_code; code = exit_code(sys.argv[1:]); "
        "print(sorted({'torch', 'transformers'} & set(sys.modules)), code)"
    )
    argv = ["eval", "--responses", str(write(tmp_path, ROWS)), "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", program, *argv], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[] 0", done.stderr
    assert "mine" in done.stdout
    assert open_artifact(tmp_path / "out", "evaluation").report["average"] == 0.4
