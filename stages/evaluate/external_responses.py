"""Responses that another engine produced (vLLM, an API), to be graded without a model."""

from collections import Counter
from pathlib import Path
from typing import Any

from padd_artifacts.errors import PaddError, UsageError
from padd_artifacts.manifest import file_parent
from padd_stages.evaluate.benchmark import ProblemSet, Protocol
from padd_stages.evaluate.tasks import Answer, Task
from padd_stages.lib.data.problems import read_records
from padd_stages.lib.grading.extraction import gold_answers

NEEDED = ("id", "answer", "response")


def read_responses(path: Path, protocol: Protocol, limit: int | None) -> tuple[list[Task], list[Answer]]:
    """Read tasks and answers in the file's order.

    A row has ``id``, ``answer`` (text, a number, or a list: any of them) and ``response``, and may have ``problem``,
    ``subject``, ``level``, ``tokens`` and ``truncated`` (then it scores 0). Rows of one id are samples of one problem.

    Raises:
        PaddError: no such file, a broken one, an empty answer, or two answers under one id.
        UsageError: a row lacks one of the three, or it is not of its kind.
    """
    if not path.is_file():
        raise PaddError(f"{path} is no file, so there are no responses to grade; check the path.")
    records = read_records(str(path))
    rows: list[dict[str, Any]] = []
    indices: dict[str | int, int] = {}
    counts: Counter[int] = Counter()
    places: list[tuple[int, int]] = []
    for number, record in enumerate(records, start=1):
        _check(path, number, record)
        index = indices.setdefault(record["id"], len(rows))
        if index == len(rows):
            rows.append(_row(record))
        elif gold_answers(record["answer"]) != gold_answers(rows[index]["answer"]):
            raise PaddError(
                f"row {number} of {path} gives problem {record['id']!r} another answer than an earlier row, so it is "
                "not clear what is right; rows of one id are samples of one problem."
            )
        places.append((index, counts[index]))
        counts[index] += 1
    problems = ProblemSet(path.stem, rows, [row["answer"] for row in rows], protocol, file_parent(path))
    problems = problems.first(limit)
    mode = "sampled" if max(counts.values()) > 1 else "greedy"
    kept = [
        (Task(problems, index, mode, sample), _answer(record))
        for (index, sample), record in zip(places, records, strict=True)
        if index < len(problems.rows)
    ]
    return [task for task, _ in kept], [answer for _, answer in kept]


def _check(path: Path, number: int, record: dict[str, Any]) -> None:
    missing = [name for name in NEEDED if record.get(name) is None]
    if missing:
        raise UsageError(
            f"row {number} of {path} has no {' and no '.join(missing)}, so it cannot be graded; every row needs "
            f"{', '.join(NEEDED)}."
        )
    for name, kinds in (("id", (str, int)), ("response", (str,))):
        if not isinstance(record[name], kinds):
            raise UsageError(
                f"{name} of row {number} of {path} is a {type(record[name]).__name__}, so the row cannot be graded; "
                "write it as text."
            )
    gold_answers(record["answer"])


def _row(record: dict[str, Any]) -> dict[str, Any]:
    level = record.get("level")
    optional = {name: record.get(name) for name in ("problem", "subject")}
    return {"id": record["id"], "answer": record["answer"], **optional, "level": level and str(level)}


def _answer(record: dict[str, Any]) -> Answer:
    # half a surrogate pair is JSON and no text: what JSON lets in, the artifact could not write
    text = record["response"].encode("utf-8", errors="replace").decode("utf-8")
    return Answer(text, record.get("tokens"), bool(record.get("truncated")))
