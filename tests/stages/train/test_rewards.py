"""Rewards in TRL's signature."""

from collections.abc import Iterator

import pytest

from padd_artifacts.errors import UsageError
from padd_stages.lib.grading.grader import Grader
from padd_stages.train.rewards import accuracy_reward, format_reward


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
