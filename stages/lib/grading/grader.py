"""Grading final answers with math-verify, in processes that can be killed.

math-verify's own time limits use SIGALRM: they fail in threads and cancel other alarms. So it runs in worker
processes without them, and the parent keeps the clock.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from types import TracebackType
from typing import Literal, Self, cast

from padd_artifacts.errors import UsageError
from padd_stages.lib.grading.extraction import (
    MAX_ANSWER_CHARS,
    Extract,
    last_boxed,
    strip_thinking,
)
from padd_stages.lib.grading.gold import as_gold
from padd_stages.lib.grading.notation import plain_number, readable
from padd_stages.lib.grading.pool import Outcome, Task, WorkerPool

Reason = Literal["match", "different", "no-answer", "timeout", "truncated"]

CACHE_SIZE = 20_000  # chosen: verdicts; short answers, so about 10 MB
WORKER_BYTES = 2 << 30  # chosen: address space of a worker; math-verify alone maps about 0.3 GB


@dataclass(frozen=True)
class Verdict:
    """Whether a response is right, the answer that was found in it, and why."""

    correct: bool
    extracted: str | None
    reason: Reason


class Grader:
    """Grades responses against gold answers; a context manager that owns the worker processes.

    Verdicts do not depend on the number of workers. May be called from any thread (calls take turns).

    Args:
        workers: processes.
        time_limit: seconds for one answer; an answer that takes longer is killed, scores 0 and is counted.
        memory: bytes of address space a worker may use; an answer that needs more is wrong (or a timeout).
    """

    def __init__(self, workers: int = 2, time_limit: float = 5.0, memory: int = WORKER_BYTES) -> None:
        if workers < 1 or time_limit <= 0:
            raise UsageError(
                f"a grader needs at least 1 worker and a time limit above 0 s, not {workers} and {time_limit}; "
                "nothing could be graded."
            )
        self.workers, self.time_limit, self.memory = workers, time_limit, memory
        self.timeouts = 0  # answers that ran out of time since the start, repeats included
        self._pool: WorkerPool | None = None
        self._cache: OrderedDict[Task, Outcome] = OrderedDict()
        self._turn = threading.Lock()

    def __enter__(self) -> Self:
        self._pool = WorkerPool(self.workers, self.time_limit, self.memory)  # they start up while we go on
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._turn:
            pool, self._pool = self._pool, None
            if pool is not None:
                pool.close()

    def grade(
        self,
        pairs: Sequence[tuple[str, object]],
        extract: Extract = "boxed",
        truncated: Sequence[bool] | None = None,
    ) -> list[Verdict]:
        """Grade ``(response, gold)`` pairs; the response alone, never prompt and response.

        Args:
            pairs: gold is a :class:`~padd_stages.lib.grading.gold.Gold`, text, a number, or a list of them (any of them
                counts).
            extract: ``boxed`` takes the last balanced box and nothing else; ``any`` falls back on whatever
                math-verify finds in the text.
            truncated: which responses were cut off; those are wrong, whatever stands in them.

        Raises:
            PaddError: a gold is empty, or a worker cannot start.
            RuntimeError: the grader is not open.
        """
        cut = [False] * len(pairs) if truncated is None else truncated
        tasks = [_task(response, gold, extract) for response, gold in pairs]
        known: dict[Task, Outcome] = {}
        with self._turn:
            if self._pool is None:
                raise RuntimeError("the grader is used outside its `with` block")
            unknown: list[Task] = []
            asked = (task for task, is_cut in zip(tasks, cut, strict=True) if task is not None and not is_cut)
            for task in dict.fromkeys(asked):
                outcome = self._cached(task) or decide(task)
                if outcome is None:
                    unknown.append(task)
                else:
                    known[task] = outcome
            fresh = self._pool.run(unknown) if unknown else []
            for task, outcome in zip(unknown, fresh, strict=True):
                known[task] = outcome
                self._remember(task, outcome)
            verdicts = [_verdict(task, is_cut, known) for task, is_cut in zip(tasks, cut, strict=True)]
            self.timeouts += sum(verdict.reason == "timeout" for verdict in verdicts)
        return verdicts

    def _cached(self, task: Task) -> Outcome | None:
        if task in self._cache:
            self._cache.move_to_end(task)
            return self._cache[task]
        return None

    def _remember(self, task: Task, outcome: Outcome) -> None:
        self._cache[task] = outcome
        if len(self._cache) > CACHE_SIZE:
            self._cache.popitem(last=False)


def decide(task: Task) -> Outcome | None:
    """The verdict where no verifier is needed: same text, plain numbers, or an answer beyond all lengths.

    None means that a worker must be asked.
    """
    if not task.boxed:
        return None
    if len(task.prediction) > MAX_ANSWER_CHARS:
        return Outcome("different", None)
    gold = task.gold
    answer = readable(task.prediction, gold.unit)
    answers = [readable(each, gold.unit) for each in gold.answers]
    if "".join(answer.split()) in ("".join(each.split()) for each in answers):
        return Outcome("match", None)
    if gold.several or gold.tolerance is not None:
        return None
    number = plain_number(answer)
    values = [plain_number(each) for each in answers]
    if number is not None and number in values:
        return Outcome("match", None)
    if _whole(number) and all(_whole(value) for value in values):
        return Outcome("different", None)
    return None


def _whole(number: Decimal | None) -> bool:
    return number is not None and number == number.to_integral_value()


def _task(response: str, gold: object, extract: Extract) -> Task | None:
    wanted = as_gold(gold)
    answer = last_boxed(response)
    if answer is not None:
        return Task(answer, wanted, boxed=True)
    if extract == "any":
        text = strip_thinking(response).strip()[-MAX_ANSWER_CHARS:]
        return Task(text, wanted, boxed=False) if text else None
    return None


def _verdict(task: Task | None, truncated: bool, known: dict[Task, Outcome]) -> Verdict:
    if truncated:
        return Verdict(False, task.prediction if task is not None and task.boxed else None, "truncated")
    if task is None:
        return Verdict(False, None, "no-answer")
    outcome = known[task]
    extracted = task.prediction if task.boxed else outcome.found
    return Verdict(outcome.reason == "match", extracted, cast(Reason, outcome.reason))
