"""The grader on the golds of benchmarks: each against itself, against other problems' golds, and with a digit changed.

    python benchmarks/grading.py FOLDER [--only NAME ...] [--shifts 3] [--json]

FOLDER holds aime24.jsonl, amc23.jsonl, math500.jsonl, minerva_math.jsonl, olympiadbench.jsonl (column ``answer``; in
the last also ``final_answer``, ``is_multiple_answer``, ``error``, ``unit``). Every match of unequal golds is listed: a
person has to say which of them are false.
"""

import argparse
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from padd_stages.data.extraction import gold_answers
from padd_stages.data.gold import Gold
from padd_stages.data.grading import Grader
from padd_stages.data.verification import judge

BENCHMARKS = ("aime24", "amc23", "math500", "minerva_math", "olympiadbench")


def gold(row: dict[str, Any]) -> Gold:
    """A row's gold answer, with what OlympiadBench says of it."""
    tolerance = row.get("error")
    return Gold(
        gold_answers(row.get("final_answer", row["answer"])),
        tolerance=None if tolerance is None else float(tolerance),
        several=bool(row.get("is_multiple_answer")),
        unit=row.get("unit"),
    )


def changed(answer: str) -> str | None:
    """The answer with its last digit one higher; None where it has no digit."""
    other = re.sub(r"\d(?=\D*$)", lambda digit: str((int(digit[0]) + 1) % 10), answer)
    return other if other != answer else None


def measure(rows: list[dict[str, Any]], grader: Grader, shifts: int) -> dict[str, Any]:
    """Counts for one benchmark, and the matches that a person should look at."""
    started = time.monotonic()
    golds = [gold(row) for row in rows]
    itself = sum(judge(each.answers[0], each, True)[0] == "match" for each in golds)
    others = [
        (rows[(i + shift) % len(rows)]["answer"], i)
        for shift in range(1, shifts + 1)
        for i in range(len(rows))
    ]
    altered = [(answer, i) for i, row in enumerate(rows) if (answer := changed(row["answer"])) is not None]
    found: dict[str, Any] = {
        "problems": len(rows),
        "itself": itself,
        "others": len(others),
        "altered": len(altered),
    }
    for name, asked in (("others", others), ("altered", altered)):
        verdicts = grader.grade([(rf"\boxed{{{answer}}}", golds[i]) for answer, i in asked])
        matches = {
            (answer, rows[i]["answer"]) for (answer, i), v in zip(asked, verdicts, strict=True) if v.correct
        }
        found[f"{name}_matching"] = sorted(pair for pair in matches if pair[0] != pair[1])
    return {**found, "timeouts": grader.timeouts, "seconds": round(time.monotonic() - started, 1)}


def main() -> None:
    """Print what was measured; with ``--json`` as one object on the last line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=BENCHMARKS)
    parser.add_argument(
        "--shifts", type=int, default=3, help="other problems that each gold is graded against"
    )
    parser.add_argument("--json", action="store_true", help="one object on the last line of stdout")
    arguments = parser.parse_args()
    console = Console(file=sys.stderr, soft_wrap=True, markup=False, highlight=False)
    found: dict[str, Any] = {}
    for name in track(arguments.only, console=console):
        lines = (arguments.folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        with Grader(workers=2, time_limit=20.0) as grader:
            found[name] = measure([json.loads(line) for line in lines], grader, arguments.shifts)
        console.print(f"{name}: {found[name]}")
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
