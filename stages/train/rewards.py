"""The built-in rewards (docs/METHOD.md, section 4, "Reward").

They have TRL's signature, ``(prompts, completions, completion_ids, **columns) -> list[float | None]``; None means
that a reward does not apply to a sample.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from padd_artifacts.errors import UsageError
from padd_stages.lib.grading.extraction import Extract, find_boxes, last_boxed, strip_thinking
from padd_stages.lib.grading.grader import Grader

Completion = str | Sequence[Mapping[str, Any]]  # text, or TRL's list of chat messages
Reward = Callable[..., Any]  # the list, or for an async function an awaitable of it

END_REGION_CHARS = 100  # chosen: room for "$.", a closing sentence, not for another solution


def accuracy_reward(grader: Grader, *, column: str = "answer", extract: Extract = "boxed") -> Reward:
    """Return a reward that is 1.0 for a right final answer, 0.0 for a wrong one, None where there is no gold.

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
    """Return 1.0 for a response with exactly one box, closed, not empty, in its last 100 characters; else 0.0.

    ``<think>`` sections are left out first. A response marked in the optional column ``truncated`` gets 0.0.
    """
    truncated = columns.get("truncated") or [False] * len(completions)
    texts = [completion_text(completion) for completion in completions]
    return [float(_well_formed(text) and not cut) for text, cut in zip(texts, truncated, strict=True)]


def completion_text(completion: Completion) -> str:
    """Return a completion's text: itself, or the last message of a chat."""
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
