"""The splitter: a problem's subset depends on its own text and the seed alone."""

import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from padd_artifacts.errors import UsageError
from padd_stages.lib.data.problems import normalise, text_id
from padd_stages.split_data.options import SplitOptions
from padd_stages.split_data.subsets import (
    SUBSETS,
    assign,
    check_ratios,
    deduplicate,
    hash_position,
)

DEFAULT_RATIOS = SplitOptions().ratios
problem_lists = st.lists(st.text(min_size=1, max_size=20), unique_by=normalise, min_size=1, max_size=30)
seeds = st.integers(0, 2**64)


@given(problem_lists, seeds, st.data())
def test_removing_and_reordering_rows_moves_no_other_row(
    problems: list[str], seed: int, data: st.DataObject
) -> None:
    places = dict(zip(problems, assign(problems, DEFAULT_RATIOS, seed), strict=True))
    rest = data.draw(st.permutations(problems))[: data.draw(st.integers(0, len(problems)))]
    assert assign(rest, DEFAULT_RATIOS, seed) == [places[problem] for problem in rest]


@given(st.text(max_size=40), seeds)
def test_spelling_does_not_move_a_problem(text: str, seed: int) -> None:
    other = "  " + text.upper().lower().replace(" ", "\n\t ") + " "
    if normalise(other) == normalise(text):  # a few characters change under upper().lower()
        assert hash_position(other, seed) == hash_position(text, seed)
        assert text_id(other) == text_id(text)


@given(st.text(max_size=40))
def test_normalise_is_idempotent(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


def test_normalise_folds_unicode_case_and_space() -> None:
    assert normalise("  Ｆind\u00a0THE\n  ﬁrst Straße ") == "find the first strasse"


@pytest.mark.parametrize("seed", [0, 1, 17])
def test_shares_are_within_a_percentage_point_at_10000_rows(seed: int) -> None:
    places = assign([f"What is {i} + {i}?" for i in range(10_000)], DEFAULT_RATIOS, seed)
    counts = Counter(places)
    for name, ratio in zip(SUBSETS, DEFAULT_RATIOS, strict=True):
        assert abs(counts[name] / 10_000 - ratio) < 0.01


def test_another_seed_gives_another_split() -> None:
    problems = [f"problem {i}" for i in range(200)]
    assert assign(problems, DEFAULT_RATIOS, 0) != assign(problems, DEFAULT_RATIOS, 1)


def test_positions_are_pinned() -> None:
    """Changing the hash would silently move every problem of every split ever made."""
    assert hash_position("What is 1 + 1?", 0) == pytest.approx(0.21985836146648907, abs=1e-15)
    assert text_id("What is 1 + 1?") == "p-9531abdef0ff67be"


@given(problem_lists, seeds)
def test_exact_counts(problems: list[str], seed: int) -> None:
    ratios = (0.25, 0.25, 0.5, 0.0)
    places = assign(problems, ratios, seed, exact=True)
    n = len(problems)
    edges = [0, round(0.25 * n), round(0.5 * n), n, n]
    assert [Counter(places)[name] for name in SUBSETS] == [high - low for low, high in pairwise(edges)]
    order = sorted(zip(problems, places), key=lambda pair: hash_position(pair[0], seed))
    assert [place for _, place in order] == sorted(places)  # cut in the order of the hash
    shuffled = random.Random(seed).sample(problems, n)
    assert dict(zip(problems, places)) == dict(zip(shuffled, assign(shuffled, ratios, seed, exact=True)))


@pytest.mark.parametrize("ratios", [(0.1, 0.2, 0.7, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.3, 0.7, 0.0)])
@pytest.mark.parametrize("exact", [False, True])
def test_a_share_of_zero_gets_nothing(ratios: tuple[float, ...], exact: bool) -> None:
    counts = Counter(assign([f"problem {i}" for i in range(2_000)], ratios, 5, exact=exact))
    assert {name for name in SUBSETS if counts[name]} == {n for n, r in zip(SUBSETS, ratios) if r}


def test_ratios_of_floats_that_miss_one_by_rounding_pass() -> None:
    check_ratios((0.1, 0.2, 0.3, 0.4))
    check_ratios((1 / 3, 1 / 3, 1 / 3, 0))


@pytest.mark.parametrize(
    ("ratios", "words"),
    [
        ((0.1, 0.2, 0.65, 0.1), r"0\.1 \+ 0\.2 \+ 0\.65 \+ 0\.1 add up to 1\.05 where 1 is needed"),
        ((0.5, 0.5), r"0\.5 \+ 0\.5 where four numbers"),
        ((1.1, -0.1, 0, 0), r"1\.1 \+ -0\.1"),
        ((float("nan"), 0, 0, 1), "nan"),
    ],
)
def test_bad_ratios(ratios: tuple[float, ...], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        assign(["x"], ratios, 0)


def _row(identity: str, problem: str, answer: str = "1") -> dict[str, str]:
    return {"id": identity, "problem": problem, "answer": answer}


def test_duplicates_count_once_and_the_first_stays() -> None:
    rows = [_row("p", "Find x."), _row("q", "find  X."), _row("r", "Find y."), _row("s", "Find x.", "2")]
    unique, duplicates = deduplicate(rows)
    assert [row["id"] for row in unique] == ["p", "r"]
    assert [(d.id, d.kept_id, d.same_answer) for d in duplicates] == [("q", "p", True), ("s", "p", False)]
