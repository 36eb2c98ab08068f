"""Responses to generate, and their results."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from padd_stages.evaluate.benchmark import ProblemSet
from padd_stages.lib.grading.grader import Verdict

Mode = Literal["greedy", "sampled"]
MODES: tuple[Mode, ...] = ("greedy", "sampled")


class Task(NamedTuple):
    """A response to a problem of a set; ``sample`` numbers the responses to one problem in one mode."""

    problems: ProblemSet
    index: int
    mode: Mode
    sample: int

    @property
    def row(self) -> dict[str, Any]:
        """The problem."""
        return self.problems.rows[self.index]


@dataclass(frozen=True)
class Answer:
    """A response; ``tokens`` is None where another engine did not say."""

    text: str
    tokens: int | None
    truncated: bool


def tasks_of(problems: ProblemSet) -> list[Task]:
    """List the responses of a set's protocol: the greedy ones, then the samples problem by problem."""
    count, protocol = len(problems.rows), problems.protocol
    greedy = [Task(problems, index, "greedy", 0) for index in range(count) if protocol.greedy]
    return greedy + [
        Task(problems, index, "sampled", sample)
        for index in range(count)
        for sample in range(protocol.samples)
    ]


def response_row(task: Task, answer: Answer, verdict: Verdict) -> dict[str, Any]:
    """Return a row of ``responses.jsonl``."""
    row = task.row
    return {
        "benchmark": task.problems.name,
        "id": row["id"],
        "mode": task.mode,
        "sample": task.sample,
        "problem": row["problem"],
        "answer": row["answer"],
        "response": answer.text,
        "extracted": verdict.extracted,
        "correct": verdict.correct,
        "reason": verdict.reason,
        "score": float(verdict.correct),
        "tokens": answer.tokens,
        "truncated": answer.truncated,
        "subject": row["subject"],
        "level": row["level"],
    }
