"""examples/benchmark.yaml: what its comments say of answers, and its command."""

from pathlib import Path
from typing import Any

from padd_artifacts.artifact import open_artifact
from padd_stages.evaluate.benchmark import load_benchmark, read_benchmark
from padd_stages.lib.grading.grader import Grader

ASKED = ["rect", "linear", "digit", "pairs", "circle"]


def test_answers_have_the_tolerance_and_the_unit_of_their_columns(here: Path) -> None:
    problems = read_benchmark("examples/benchmark.yaml", Path("examples"))
    assert [row["id"] for row in problems.rows] == ASKED
    golds = dict(zip(ASKED, problems.golds, strict=True))
    said = {
        "rect": {r"\boxed{152 cm}": True, r"\boxed{152}": True, r"\boxed{153}": False},
        "pairs": {r"\boxed{210}": True, r"\boxed{14}": False},
        "circle": {r"\boxed{28.274}": True, r"\boxed{28.3}": False},
        "linear": {r"\boxed{11}": True, "11": False},
    }
    pairs = [(text, golds[name]) for name, texts in said.items() for text in texts]
    with Grader(workers=1, time_limit=20.0) as grader:
        verdicts = grader.grade(pairs, extract=load_benchmark("examples/benchmark.yaml").protocol.extract)
    assert [verdict.correct for verdict in verdicts] == [
        right for texts in said.values() for right in texts.values()
    ]


def test_its_command_asks_every_problem(here: Path, pico: Any, command: Any, padd: Any) -> None:
    words = [str(pico.student) if word == "runs/toy/train" else word for word in command("benchmark.yaml")]
    code, err = padd(words)
    assert code == 0, err
    artifact = open_artifact(here / "runs" / "eval" / "measures", "evaluation")
    [(_, report)] = artifact.report["benchmarks"].items()
    assert report["problems"] == len(ASKED)
    rows = artifact.jsonl("responses.jsonl")
    assert [sum(row["mode"] == mode for row in rows) for mode in ("greedy", "sampled")] == [5, 10]
    assert {row["subject"] for row in rows} == {"geometry", "algebra", "number theory", "counting"}
