"""The numbers of an evaluation against slow versions of themselves and against values computed by hand."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from padd_artifacts.manifest import Parent
from padd_stages.evaluate.accuracy import evaluation_report, majority_vote, pass_at_k, summary_of
from padd_stages.evaluate.benchmark import ProblemSet, Protocol
from padd_stages.evaluate.tasks import Task, tasks_of
from padd_stages.lib.measures.intervals import bootstrap_interval


def problems(name: str, count: int, **protocol: Any) -> ProblemSet:
    rows = [{"id": str(i), "problem": f"p{i}", "answer": "1"} for i in range(count)]
    return ProblemSet(name, rows, ["1"] * count, Protocol(**protocol), Parent(kind="file", digest=name))


def record(score: float, answer: str | None = "1", **other: Any) -> dict[str, Any]:
    plain = {"truncated": False, "tokens": 3, "subject": None, "level": None, "reason": "match"}
    return plain | {"score": score, "extracted": answer} | other


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("correct", [0, 1, 3, 5])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(correct: int, k: int) -> None:
    subsets = list(combinations([True] * correct + [False] * (5 - correct), k))
    assert pass_at_k(5, correct, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["2", "1", "1"], 1.0),
        (["2", "2", "1"], 0.0),
        (["2", "1"], 0.5),  # a tie: each answer counts its share
        (["2", "3", "1"], 1 / 3),
        (["2", "2", None, None, None], 0.0),
        ([None, "1"], 1.0),
        ([None], 0.0),
        (["1{,}000", "1,000", "2"], 0.0),
    ],
)
def test_majority_vote(answers: list[str | None], expected: float) -> None:
    group = [record(float(answer == "1"), answer) for answer in answers]
    assert majority_vote(group) == pytest.approx(expected)


def test_a_response_that_was_cut_off_has_no_vote() -> None:
    assert majority_vote([record(1.0), *[record(0.0, "2", truncated=True)] * 2]) == 1.0


def run(sets: list[ProblemSet], scores: list[float], **columns: list[Any]) -> dict[str, Any]:
    tasks: list[Task] = [task for each in sets for task in tasks_of(each)]
    records = [
        record(score, **{name: values[i] for name, values in columns.items()})
        for i, score in enumerate(scores)
    ]
    return evaluation_report(tasks, records, seed=3)


def test_greedy_and_sampled_of_one_benchmark() -> None:
    found = run([problems("a", 2, samples=4)], [1, 0, *[1, 1, 0, 0], *[0, 0, 0, 1]])["benchmarks"]["a"]
    assert (found["problems"], found["headline"], found["greedy"]["accuracy"]) == (2, "greedy", 0.5)
    sampled = found["sampled"]
    assert (sampled["accuracy"], sampled["samples"]) == (0.375, 4)
    assert sampled["interval"] == list(bootstrap_interval([0.5, 0.25], seed=3))
    assert sampled["pass_at_k"] == pytest.approx({"1": 0.375, "2": (5 / 6 + 1 / 2) / 2, "4": 1.0})
    assert found["protocol"]["samples"] == 4


def test_the_average_is_of_headlines_and_unweighted() -> None:
    sampled = problems("a", 1, greedy=False, samples=2)
    report = run([sampled, problems("b", 3)], [1, 0, *[1, 1, 0]])
    assert report["benchmarks"]["a"]["headline"] == "sampled"
    assert report["average"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    low, high = report["average_interval"]
    assert low == pytest.approx((1 / 2 + 0) / 2)  # one problem alone has no spread
    assert high == pytest.approx((1 / 2 + 1) / 2)
    summary = summary_of(report | {"parameters": {"active": 5}})
    assert summary["active_parameters"] == 5
    assert summary["benchmarks"]["b"] == {
        "problems": 3, "greedy": 2 / 3, "greedy_low": 0.0, "greedy_high": 1.0,
    }  # fmt: skip


def test_groups_lengths_reasons_and_truncation() -> None:
    columns = {
        "subject": ["x", "y", "x", None],
        "level": [None] * 4,
        "tokens": [1, 2, 3, 10],
        "truncated": [False, False, False, True],
        "reason": ["match", "different", "match", "truncated"],
    }
    found = run([problems("a", 4)], [1, 0, 1, 0], **columns)["benchmarks"]["a"]["greedy"]
    assert {name: (group["problems"], group["accuracy"]) for name, group in found["subjects"].items()} == {
        "unlabelled": (1, 0.0), "x": (2, 1.0), "y": (1, 0.0),
    }  # fmt: skip
    assert found["levels"] == {}
    assert found["tokens"] == {"mean": 4.0, "median": 2.5, "max": 10}
    assert found["truncated"] == 0.25
    assert found["reasons"] == {"different": 1, "match": 2, "truncated": 1}


def test_unknown_lengths() -> None:
    found = run([problems("a", 2)], [1, 0], tokens=[None, None])["benchmarks"]["a"]["greedy"]
    assert found["tokens"] is None


def test_unequal_numbers_of_samples_count_per_problem() -> None:
    few = problems("a", 2)
    tasks = [
        Task(few, index, "sampled", sample) for index, count in ((0, 1), (1, 3)) for sample in range(count)
    ]
    found = evaluation_report(tasks, [record(score) for score in (1, 1, 0, 0)], seed=0)["benchmarks"]["a"]
    assert found["sampled"]["accuracy"] == pytest.approx(np.mean([1, 1 / 3]))
    assert (found["sampled"]["samples"], found["sampled"]["pass_at_k"]) == (1, {"1": pytest.approx(2 / 3)})
