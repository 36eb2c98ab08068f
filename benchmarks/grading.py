"""The grader on the golds of benchmarks: each against itself, against other problems' golds, and with a digit changed.

    python benchmarks/grading.py FOLDER [--only NAME ...] [--shifts 3] [--quick] [--json]

FOLDER holds the benchmarks' files, as for ``padd eval --benchmark-dir``. Every match of unequal golds is listed: a
person has to say which of them are false. --quick takes the first 100 golds of each benchmark and one other problem.
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

from padd_stages.evaluate.benchmark import read_benchmark
from padd_stages.lib.grading.gold import Gold
from padd_stages.lib.grading.grader import Grader
from padd_stages.lib.grading.verification import judge

BENCHMARKS = ("aime24", "amc23", "math500", "minerva-math", "olympiadbench")


def changed(answer: str) -> str | None:
    """The answer with its last digit one higher; None where it has no digit."""
    other = re.sub(r"\d(?=\D*$)", lambda digit: str((int(digit[0]) + 1) % 10), answer)
    return other if other != answer else None


def measure(golds: list[Gold], grader: Grader, shifts: int) -> dict[str, Any]:
    """Counts for one benchmark, and the matches that a person should look at."""
    started = time.monotonic()
    texts = [each.answers[0] for each in golds]
    itself = sum(judge(text, each, True)[0] == "match" for text, each in zip(texts, golds, strict=True))
    others = [
        (texts[(i + shift) % len(texts)], i) for shift in range(1, shifts + 1) for i in range(len(texts))
    ]
    altered = [(answer, i) for i, text in enumerate(texts) if (answer := changed(text)) is not None]
    found: dict[str, Any] = {
        "problems": len(golds),
        "itself": itself,
        "others": len(others),
        "altered": len(altered),
    }
    for name, asked in (("others", others), ("altered", altered)):
        verdicts = grader.grade([(rf"\boxed{{{answer}}}", golds[i]) for answer, i in asked])
        matches = {(answer, texts[i]) for (answer, i), v in zip(asked, verdicts, strict=True) if v.correct}
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
    parser.add_argument("--quick", action="store_true", help="100 golds of each benchmark, --shifts 1")
    parser.add_argument("--json", action="store_true", help="one object on the last line of stdout")
    arguments = parser.parse_args()
    console = Console(file=sys.stderr, soft_wrap=True, markup=False, highlight=False)
    found: dict[str, Any] = {}
    for name in track(arguments.only, console=console):
        golds = read_benchmark(name, arguments.folder).golds[: 100 if arguments.quick else None]
        with Grader(workers=2, time_limit=20.0) as grader:
            found[name] = measure(golds, grader, 1 if arguments.quick else arguments.shifts)
        console.print(f"{name}: {found[name]}")
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
