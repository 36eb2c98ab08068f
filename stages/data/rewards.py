"""Verifiable rewards in TRL's signature: ``(prompts, completions, completion_ids, **columns) -> list[float | None]``.

None means that a reward does not apply to a sample. docs/METHOD.md, section 4, "Reward".
"""

import importlib
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from padd_artifacts.errors import UsageError
from padd_stages.data.extraction import Extract, find_boxes, last_boxed, strip_thinking
from padd_stages.data.grading import Grader

Completion = str | Sequence[Mapping[str, Any]]  # text, or TRL's list of chat messages
Reward = Callable[..., list[float | None]]

END_REGION_CHARS = 100  # chosen: room for "$.", a closing sentence, not for another solution


def accuracy_reward(grader: Grader, *, column: str = "answer", extract: Extract = "boxed") -> Reward:
    """1.0 where the final answer is right, 0.0 where it is not, None where there is no gold.

    The gold comes from ``column``; where that column is not passed, from ``solution``, as in TRL (its last box,
    if it has one). A response marked in the optional column ``truncated`` (list of bool) gets 0.0.
    """

    def accuracy(
        prompts: Sequence[Any],
        completions: Sequence[Completion],
        completion_ids: Sequence[Any],
        **columns: Any,
    ) -> list[float | None]:
        golds = columns[column] if column in columns else _golds_of_solutions(columns, column)
        truncated = columns.get("truncated") or [False] * len(completions)
        asked = [i for i, gold in enumerate(golds) if gold is not None and not truncated[i]]
        pairs = [(completion_text(completions[i]), golds[i]) for i in asked]
        scores: list[float | None] = [None if gold is None else 0.0 for gold in golds]
        for index, verdict in zip(asked, grader.grade(pairs, extract), strict=True):
            scores[index] = float(verdict.correct)
        return scores

    return accuracy


def format_reward(
    prompts: Sequence[Any], completions: Sequence[Completion], completion_ids: Sequence[Any], **columns: Any
) -> list[float | None]:
    """1.0 for a response with exactly one box, closed, not empty and within its last 100 characters; else 0.0.

    ``<think>`` sections are left out first. A response marked in the optional column ``truncated`` gets 0.0.
    """
    truncated = columns.get("truncated") or [False] * len(completions)
    texts = [completion_text(completion) for completion in completions]
    return [float(_well_formed(text) and not cut) for text, cut in zip(texts, truncated, strict=True)]


def combine(rewards: Sequence[Sequence[float | None]], weights: Sequence[float]) -> list[float | None]:
    """Weighted sum over reward functions, per sample.

    Args:
        rewards: one list per reward function, each over the same samples.
        weights: one per reward function.

    Returns:
        Per sample the sum over the rewards that apply; None where none of them does.

    Raises:
        UsageError: counts that differ, or a reward that is not finite.
    """
    lengths = {len(scores) for scores in rewards}
    if len(rewards) != len(weights) or len(lengths) > 1:
        raise UsageError(
            f"there are {len(rewards)} rewards of lengths {sorted(lengths)} and {len(weights)} weights, so they cannot "
            "be summed; give one weight a reward and one score a sample."
        )
    totals: list[float | None] = []
    for scores in zip(*rewards, strict=True):
        parts = [weight * score for score, weight in zip(scores, weights, strict=True) if score is not None]
        if not all(map(math.isfinite, parts)):
            raise UsageError(
                f"a reward is not finite ({scores}), so advantages would be NaN; mend the function."
            )
        totals.append(math.fsum(parts) if parts else None)
    return totals


def load_reward(name: str) -> Reward:
    """A reward function of the user's own, ``module:function``; the current folder is searched too.

    Raises:
        UsageError: another form, no such module, no such function, or something that cannot be called.
    """
    module_name, separator, function_name = name.partition(":")
    if not separator or not module_name or not function_name:
        raise UsageError(f"the reward '{name}' is not of the form module:function, so it cannot be loaded.")
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except ImportError as error:
        raise UsageError(
            f"the reward '{name}' cannot be loaded ({error}), so nothing can be scored; install the module "
            f"or start from the folder that holds it (here: {here})."
        ) from error
    except AttributeError as error:
        raise UsageError(
            f"module '{module_name}' has no '{function_name}', so nothing can be scored; check the spelling."
        ) from error
    finally:
        sys.path.remove(here)
    if not callable(function):
        raise UsageError(
            f"the reward '{name}' is a {type(function).__name__}, not a function, so it cannot score."
        )
    return cast(Reward, function)


def completion_text(completion: Completion) -> str:
    """A completion's text: itself, or the last message of a chat."""
    if isinstance(completion, str):
        return completion
    return str(completion[-1]["content"]) if completion else ""


def _well_formed(text: str) -> bool:
    answer = strip_thinking(text).rstrip()
    boxes, unclosed = find_boxes(answer)
    if unclosed or len(boxes) != 1 or last_boxed(answer) is None:
        return False
    return len(answer) - boxes[0].end <= END_REGION_CHARS


def _golds_of_solutions(columns: Mapping[str, Any], column: str) -> list[Any]:
    if "solution" not in columns:
        raise UsageError(
            f"the accuracy reward got neither the column '{column}' nor 'solution' (columns: "
            f"{', '.join(columns) or 'none'}), so nothing can be graded; name the column of gold answers."
        )
    return [(last_boxed(s) or s) if isinstance(s, str) else s for s in columns["solution"]]
