"""The reward functions of a run: the user's own, sync and async, and what is said when one is wrong."""

import sys
from pathlib import Path
from typing import Any

import pytest

from padd_artifacts.errors import PaddError, UsageError
from padd_artifacts.manifest import sha256_file
from padd_stages.lib.grading.grader import Grader
from padd_stages.train.reward_functions import Rewards, combine, load_reward, reward_parents

OWN = """
import asyncio, functools

def length(prompts, completions, completion_ids, **columns):
    return [len(ids) for ids in completion_ids]

def even(completions, solution, **columns):
    return [None if s is None else float(len(c) % 2 == 0) for c, s in zip(completions, solution)]

arrived = []
async def first(prompts, completions, **columns):
    arrived.append("first")
    while len(arrived) < 2:  # for ever, unless the second one runs beside this one
        await asyncio.sleep(0)
    return [1.0] * len(completions)

class Second:
    async def __call__(self, completions, **columns):
        arrived.append("second")
        return [2] * len(completions)
second = Second()
partial = functools.partial(length, 0)

def raises(**columns):
    return [1 / 0]
async def raises_async(**columns):
    raise KeyError("solution")
def short(**columns):
    return [1.0]
def none(**columns):
    return None
def words(**columns):
    return ["good", "bad", "ugly"]
def nan(**columns):
    return [float("nan"), 0, 0]
def accuracy(**columns):
    return [0, 0, 0]
NUMBER = 3
"""
CALL: dict[str, Any] = {
    "prompts": ["p", "q", "r"],
    "completions": [r"\boxed{1}", r"\boxed{22}", "no"],
    "completion_ids": [[1, 2], [3], []],
    "answer": ["1", "1", "1"],
    "solution": ["s", None, "t"],
}


@pytest.fixture
def own(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A file of rewards with a name of its own, since modules are imported once."""
    path = tmp_path / f"rewards_{abs(hash(request.node.name))}.py"
    path.write_text(OWN)
    return path


def score(names: list[str], weights: tuple[float, ...] = ()) -> tuple[dict[str, Any], list[float | None]]:
    with Grader(workers=1) as grader, Rewards(names, weights, grader) as rewards:
        scores = rewards.score(**CALL)
        return scores, rewards.total(scores)


def test_built_in_and_own_are_summed_by_weight(own: Path) -> None:
    scores, total = score(["accuracy", f"{own}:length", f"{own}:even"], (1.0, 0.1, 10.0))
    assert scores == {"accuracy": [1.0, 0.0, 0.0], "length": [2.0, 1.0, 0.0], "even": [0.0, None, 1.0]}
    assert total == [1.2, 0.1, 10.0]


def test_by_default_a_format_bonus_counts_nothing_and_all_others_one(own: Path) -> None:
    scores, total = score(["accuracy", "format", f"{own}:length"])
    assert scores["format"] == [1.0, 1.0, 0.0]
    assert total == [3.0, 1.0, 0.0]


def test_accuracy_is_measured_where_it_does_not_count(own: Path) -> None:
    scores, total = score([f"{own}:length"])
    assert (scores["accuracy"], total) == ([1.0, 0.0, 0.0], [2.0, 1.0, 0.0])


def test_where_no_reward_applies_there_is_none(own: Path) -> None:
    assert score([f"{own}:even"])[1] == [0.0, None, 1.0]


def test_async_functions_run_side_by_side_and_step_after_step(own: Path) -> None:
    names = [f"{own}:first", f"{own}:second", f"{own}:length"]
    with Grader(workers=1) as grader, Rewards(names, (), grader) as rewards:
        for _ in range(2):
            scores = rewards.score(**CALL)
            assert scores["first"] == [1.0] * 3
            assert scores["second"] == [2.0] * 3


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("raises", r"'raises' failed with ZeroDivisionError: division by zero \(.*py, line \d+\)"),
        ("raises_async", "'raises_async' failed with KeyError: 'solution'"),
        ("short", r"'short' returned 1 scores for 3 responses"),
        ("none", "'none' returned something else than a list"),
        ("words", "'words' returned something else than a list of numbers or None .*good"),
        ("nan", "'nan' returned nan"),
    ],
)
def test_a_broken_reward_is_one_sentence_that_names_it(own: Path, name: str, words: str) -> None:
    with pytest.raises(PaddError, match=words) as caught:
        score([f"{own}:{name}"])
    assert "\n" not in str(caught.value)


def test_the_source_file_is_what_a_recipe_knows_of_a_reward(own: Path) -> None:
    parents = reward_parents(["accuracy", f"{own}:length", f"{own}:second", f"{own}:partial"])
    assert list(parents) == ["reward.length", "reward.second", "reward.partial"]
    assert {parent.digest for parent in parents.values()} == {sha256_file(own)}
    with pytest.raises(UsageError, match="no source file"):
        reward_parents(["builtins:len"])


@pytest.mark.parametrize("names", [["{}:accuracy"], ["{}:length", "{}:length"], ["format", "format"]])
def test_two_rewards_of_one_name_are_refused(own: Path, names: list[str]) -> None:
    with pytest.raises(UsageError, match="one name"):
        reward_parents([name.format(own) for name in names])


def test_load_reward_by_module_from_the_current_folder(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own.parent)
    before = list(sys.path)
    assert load_reward(f"{own.stem}:length")([0], ["x"], [[7, 8]]) == [2]
    with pytest.raises(UsageError, match="has no 'long'"):
        load_reward(f"{own.stem}:long")
    with pytest.raises(UsageError, match="is a int, not a function"):
        load_reward(f"{own.stem}:NUMBER")
    assert sys.path == before


@pytest.mark.parametrize("name", ["", "module", ":function", "module:"])
def test_load_reward_refuses_other_forms(name: str) -> None:
    with pytest.raises(UsageError, match="module:function"):
        load_reward(name)


def test_load_reward_says_why_a_module_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No module named 'no_such_module_here'"):
        load_reward("no_such_module_here:f")
    with pytest.raises(UsageError, match="No module named 'not_there'"):
        load_reward(f"{tmp_path}/not_there.py:f")
    broken = tmp_path / "a_broken_reward_file.py"
    broken.write_text("def f(:\n")
    with pytest.raises(UsageError, match="SyntaxError"):
        load_reward(f"{broken}:f")


def test_a_file_with_the_name_of_another_module_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "json.py"
    path.write_text("def f(**columns):\n    return []\n")
    with pytest.raises(UsageError, match="name of another module"):
        load_reward(f"{path}:f")


def test_combine() -> None:
    rewards = [[1.0, 0.0, None, None], [0.5, None, 2.0, None]]
    assert combine(rewards, [1.0, 0.1]) == [pytest.approx(1.05), 0.0, pytest.approx(0.2), None]
    assert combine(rewards, [1.0, 0.0]) == [1.0, 0.0, 0.0, None]
