"""Grader and keyword rules on real problems (env PADD_DATA)."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from padd_stages.data.extraction import gold_answers, readable
from padd_stages.data.grading import Grader
from padd_stages.data.grading_worker import judge
from padd_stages.data.subdomains import classify

pytestmark = pytest.mark.data


def _rows(name: str) -> list[dict[str, Any]]:
    path = Path(os.environ.get("PADD_DATA", "/nonexistent")) / name
    if not path.is_file():
        pytest.skip(f"PADD_DATA holds no {name}")
    with path.open(encoding="utf-8") as handle:
        return [json.loads(line) for line in handle]


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(workers=2, time_limit=20.0) as shared:
        yield shared


BENCHMARKS = [("aime24", 30), ("amc23", 40), ("math500", 500), ("minerva_math", 272), ("olympiadbench", 675)]


@pytest.mark.parametrize(("name", "count"), BENCHMARKS)
def test_every_gold_matches_itself(grader: Grader, name: str, count: int) -> None:
    rows = _rows(f"{name}.jsonl")
    pairs = [(rf"\boxed{{{row['answer']}}}", row.get("final_answer", row["answer"])) for row in rows]
    assert sum(verdict.correct for verdict in grader.grade(pairs)) == count


@pytest.mark.parametrize(("name", "count"), BENCHMARKS)
def test_every_gold_matches_itself_by_the_verifier_alone(name: str, count: int) -> None:
    """Without the shortcut for equal texts; OlympiadBench has two malformed golds."""
    golds = [[readable(answer) for answer in gold_answers(row["answer"])] for row in _rows(f"{name}.jsonl")]
    assert len(golds) == count
    assert sum(judge(gold[0], gold, True)[0] == "match" for gold in golds) == count


def test_no_gold_of_math500_matches_its_neighbour_unless_equal(grader: Grader) -> None:
    rows = _rows("math500.jsonl")
    golds = [row["answer"] for row in rows]
    shifted = golds[1:] + golds[:1]
    verdicts = grader.grade(
        [(rf"\boxed{{{other}}}", gold) for gold, other in zip(golds, shifted, strict=True)]
    )
    assert not [
        v
        for v, gold, other in zip(verdicts, golds, shifted)
        if v.correct and gold != other and {gold, other} != {"5", "x=5"}
    ]
    assert not any(verdict.reason == "timeout" for verdict in verdicts)


def test_gsm8k_golds_with_and_without_marks(grader: Grader) -> None:
    golds = [row["answer"] for row in _rows("gsm8k_train.jsonl")[:1_000]]
    whole = [int(gold.replace(",", "")) for gold in golds if "." not in gold]
    marked = grader.grade([(rf"\boxed{{{value:,}}}", value) for value in whole])
    wrong = grader.grade([(rf"\boxed{{{value + 1}}}", f"{value:,}") for value in whole])
    assert all(verdict.correct for verdict in marked)
    assert not any(verdict.correct for verdict in wrong)


def test_core_cases_boxed_or_bare(grader: Grader) -> None:
    cases = [row for row in _rows("math_verify_cases.jsonl") if row["tag"] == "core"]
    cases = [row for row in cases if row["prediction_form"] != "text"]
    assert len(cases) == 101
    boxed = [
        row["prediction"] if row["prediction_form"] == "boxed" else row["boxed_prediction"] for row in cases
    ]
    verdicts = grader.grade([(response, row["gold"]) for response, row in zip(boxed, cases, strict=True)])
    misses = [row["id"] for row, verdict in zip(cases, verdicts) if verdict.correct != bool(row["expected"])]
    # Known miss (1): two boxes hold intermediate results and the final answer is bare text after them.
    assert len(misses) <= 1, misses


def test_core_cases_in_free_text(grader: Grader) -> None:
    cases = [row for row in _rows("math_verify_cases.jsonl") if row["tag"] == "core"]
    cases = [row for row in cases if row["prediction_form"] == "text"]
    verdicts = grader.grade([(row["prediction"], row["gold"]) for row in cases], extract="any")
    right = sum(verdict.correct == bool(row["expected"]) for row, verdict in zip(cases, verdicts))
    assert (right, len(cases)) == (36, 36)


MERGED = {
    "Algebra": "algebra",
    "Intermediate Algebra": "algebra",
    "Prealgebra": "algebra",
    "Number Theory": "number theory",
    "Precalculus": "precalculus",
    "Geometry": "geometry",
    "Counting & Probability": "combinatorics & probability",
}


def test_keyword_rules_against_the_labels_of_math500() -> None:
    """Five merged subjects; saying "algebra" always scores 0.606, and a mean recall of 0.2. Measured: 0.798, 0.80."""
    rows = _rows("math500.jsonl")
    right = {name: [0, 0] for name in MERGED.values()}
    for row in rows:
        subject = MERGED[row["subject"]]
        assert classify("", row["subject"]) == subject
        right[subject][0] += classify(row["problem"]) == subject
        right[subject][1] += 1
    assert sum(hit for hit, _ in right.values()) / len(rows) >= 0.78
    assert sum(hit / all_ for hit, all_ in right.values()) / len(right) >= 0.78
