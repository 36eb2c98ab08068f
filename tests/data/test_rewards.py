"""Rewards in TRL's signature."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from padd_artifacts.errors import UsageError
from padd_stages.data.grading import Grader
from padd_stages.data.rewards import accuracy_reward, combine, format_reward, load_reward


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(workers=1, time_limit=20.0) as shared:
        yield shared


COMPLETIONS = [r"\boxed{1}", r"\boxed{2}", "nothing", r"\boxed{1}", r"\boxed{1}"]
NOTHING = [None] * 5


def test_accuracy(grader: Grader) -> None:
    reward = accuracy_reward(grader)
    scores = reward(NOTHING, COMPLETIONS, NOTHING, answer=["1", "1", "1", None, ["7", 1]], id=list("abcde"))
    assert scores == [1.0, 0.0, 0.0, None, 1.0]


def test_a_truncated_response_gets_nothing(grader: Grader) -> None:
    cut = [False, False, False, True, True]
    assert accuracy_reward(grader)(NOTHING, COMPLETIONS, NOTHING, answer=["1"] * 5, truncated=cut)[3:] == [
        0.0,
        0.0,
    ]
    assert format_reward(NOTHING, COMPLETIONS, NOTHING, truncated=cut) == [1.0, 1.0, 0.0, 0.0, 0.0]


def test_gold_from_another_column_or_from_solution(grader: Grader) -> None:
    completions = [r"\boxed{1}"] * 2
    assert accuracy_reward(grader, column="gold")([0, 0], completions, [0, 0], gold=[1, 2]) == [1.0, 0.0]
    solutions = [r"We see that 3 - 2 is \boxed{1}.", "1"]
    assert accuracy_reward(grader)([0, 0], completions, [0, 0], solution=solutions) == [1.0, 1.0]
    with pytest.raises(UsageError, match=r"neither the column 'answer' nor 'solution' \(columns: id\)"):
        accuracy_reward(grader)([0, 0], completions, [0, 0], id=[1, 2])


def test_chat_completions(grader: Grader) -> None:
    chat = [[{"role": "assistant", "content": r"so \boxed{1}"}]]
    assert accuracy_reward(grader)([0], chat, [0], answer=["1"]) == [1.0]
    assert format_reward([0], chat, [0]) == [1.0]


@pytest.mark.parametrize(
    ("response", "score"),
    [
        (r"We add. The answer is $\boxed{3}$.", 1.0),
        (r"<think>\boxed{1}? \boxed{2}?</think> \boxed{3}", 1.0),
        (r"\boxed{3}" + "." * 100 + "   \n" * 50, 1.0),
        (r"\boxed{3}" + "." * 101, 0.0),
        (r"\boxed{1} or \boxed{3}", 0.0),
        (r"\boxed{3} \boxed{4", 0.0),
        (r"\boxed{4 \boxed{3}", 1.0),
        (r"\boxed{}", 0.0),
        (r"\boxed{3", 0.0),
        ("3", 0.0),
    ],
)
def test_format(response: str, score: float) -> None:
    assert format_reward([0], [response], [0]) == [score]


def test_combine() -> None:
    rewards = [[1.0, 0.0, None, None], [0.5, None, 2.0, None]]
    assert combine(rewards, [1.0, 0.1]) == [pytest.approx(1.05), 0.0, pytest.approx(0.2), None]
    assert combine(rewards, [1.0, 0.0]) == [1.0, 0.0, 0.0, None]


@pytest.mark.parametrize(
    ("rewards", "weights", "words"),
    [
        ([[1.0], [1.0]], [1.0], r"2 rewards .* 1 weights"),
        ([[1.0], [1.0, 2.0]], [1.0, 1.0], r"lengths \[1, 2\]"),
        ([[float("nan")]], [1.0], "not finite"),
    ],
)
def test_combine_refuses(rewards: list[list[float | None]], weights: list[float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        combine(rewards, weights)


def test_load_reward_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "a_reward_of_this_test"
    (tmp_path / f"{name}.py").write_text(
        "def short(prompts, completions, ids, **c):\n    return [1.0]\nNUMBER = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    try:
        assert load_reward(f"{name}:short")([0], ["x"], [0]) == [1.0]
        with pytest.raises(UsageError, match="has no 'long'"):
            load_reward(f"{name}:long")
        with pytest.raises(UsageError, match="is a int, not a function"):
            load_reward(f"{name}:NUMBER")
    finally:
        sys.modules.pop(name, None)
    assert sys.path == before


@pytest.mark.parametrize("name", ["", "module", ":function", "module:"])
def test_load_reward_refuses_other_forms(name: str) -> None:
    with pytest.raises(UsageError, match="module:function"):
        load_reward(name)


def test_load_reward_names_the_module_that_is_missing() -> None:
    with pytest.raises(UsageError, match="No module named 'no_such_module_here'"):
        load_reward("no_such_module_here:f")
