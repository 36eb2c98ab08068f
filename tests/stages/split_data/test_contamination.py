"""Benchmark problems in the data."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from padd_stages.split_data.contamination import ContaminatedRow, decontaminate

BALLS = "How many ways are there to put 5 balls in {} boxes if the balls are not distinguishable?"


def _row(identity: str, problem: str) -> dict[str, Any]:
    return {"id": identity, "problem": problem}


def _one(problem: str, benchmark: str, threshold: float = 0.4) -> ContaminatedRow | None:
    clean, found = decontaminate([_row("p", problem)], {"bench": [_row("b", benchmark)]}, threshold)
    assert [pair.id for pair in found] == ["p"] * len(found)
    assert clean == ([] if any(pair.removed for pair in found) else [_row("p", problem)])
    return found[0] if found else None


def test_benchmark_problems_are_removed_and_listed_with_both_ids() -> None:
    rows = [_row("p", "Find x."), _row("q", "Find y.")]
    benchmarks = {"one": [_row("b1", "FIND  x.")], "two": [_row("b2", "Find x."), _row("b3", "Find z.")]}
    clean, found = decontaminate(rows, benchmarks, 1.0)
    assert [row["id"] for row in clean] == ["q"]
    assert found == [
        ContaminatedRow("p", "one", "b1", 1.0, True),
        ContaminatedRow("p", "two", "b2", 1.0, True),
    ]


def test_similarity_is_the_jaccard_index_of_three_word_runs() -> None:
    pair = _one("a b c d e f", "a b c d x f", 0.1)
    assert pair is not None
    assert pair.similarity == pytest.approx(2 / 6)  # abc, bcd of abc, bcd, cde, def, cdx, dxf
    assert _one("a b c d e f", "a b c d x f", 0.34) is None


@pytest.mark.parametrize(
    ("problem", "benchmark"),
    [
        (r"Find $\left( x \right)^{}_{}$ if $x_{1}^2=4$ holds.", "find (x) if $x_1^{2} = 4$ holds"),
        ("What is shown here? [asy] draw((0,0)--(1,1)); [/asy]", "What is shown here?"),
        ("Find the last digit of 7^100.", "Let n be 7^100. Find the last digit of 7^100."),
        (BALLS.format(2) + " Give the remainder modulo 1000.", BALLS.format(2)),
    ],
)
def test_near_duplicates_are_removed(problem: str, benchmark: str) -> None:
    pair = _one(problem, benchmark)
    assert pair is not None
    assert pair.removed


def test_another_instance_of_a_template_is_only_listed() -> None:
    pair = _one(BALLS.format(3), BALLS.format(2))
    assert pair is not None
    assert pair.similarity > 0.6
    assert not pair.removed


@pytest.mark.parametrize("problem", ["?", "…", "[asy] draw(unitcircle); [/asy]", "12"])
def test_problems_without_words(problem: str) -> None:
    assert (_one(problem, problem) or ContaminatedRow("", "", "", 0, False)).removed
    assert _one(problem, "What is it?") is None


def test_nothing_to_compare_with() -> None:
    rows = [_row("p", "Find x.")]
    assert decontaminate(rows, {}, 0.4) == (rows, [])
    assert decontaminate(rows, {"empty": []}, 0.4) == (rows, [])
    assert decontaminate([], {"bench": rows}, 0.4) == ([], [])


words = st.lists(st.sampled_from(["a", "b", "c", "7", "x"]), min_size=1, max_size=8).map(" ".join)


@given(st.lists(words, min_size=1, max_size=6), st.lists(words, min_size=1, max_size=6), st.floats(0.05, 1))
def test_against_every_pair_one_by_one(problems: list[str], known: list[str], threshold: float) -> None:
    def runs(text: str) -> set[tuple[str, ...]]:
        each = text.split()
        return {tuple(each[i : i + 3]) for i in range(max(1, len(each) - 2))}

    expected = {
        (i, j)
        for i, problem in enumerate(problems)
        for j, other in enumerate(known)
        if len(runs(problem) & runs(other)) / len(runs(problem) | runs(other)) >= threshold
    }
    rows = [_row(str(i), problem) for i, problem in enumerate(problems)]
    _, found = decontaminate(
        rows, {"bench": [_row(str(j), other) for j, other in enumerate(known)]}, threshold
    )
    assert {(int(pair.id), int(pair.benchmark_id)) for pair in found} == expected
