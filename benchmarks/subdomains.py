"""The keyword rules against the subjects that data sets name, mapped to the seven subdomains.

    python benchmarks/subdomains.py FOLDER [--quick] [--json]

FOLDER holds math500.jsonl, math_train.jsonl and olympiadbench.jsonl with the columns ``problem`` and ``subject``. Rows
of a confusion matrix are the data's subjects, columns what the rules say. Weights were set on MATH's training problems
and the even rows of OlympiadBench; MATH500 and the odd rows measure them. ``--quick`` takes those two alone.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from padd_stages.analyze_experts.keyword_accuracy import classifier_json
from padd_stages.analyze_experts.texts import read_texts

# File, its rows, and whether weights were set on some of them.
SETS = {
    "MATH500": ("math500.jsonl", slice(None), False),
    "OlympiadBench, odd rows": ("olympiadbench.jsonl", slice(1, None, 2), False),
    "OlympiadBench, even rows": ("olympiadbench.jsonl", slice(0, None, 2), True),
    "OlympiadBench": ("olympiadbench.jsonl", slice(None), True),
    "MATH train": ("math_train.jsonl", slice(None), True),
}


def measure(path: Path, rows: slice) -> dict[str, Any]:
    """Accuracy, its mean over subjects, and that of always naming the commonest subject, with the confusion matrix."""
    found = classifier_json((row.problem, row.label) for row in read_texts(path)[rows])
    counts = found["confusion"]["counts"]
    totals = [sum(row) for row in counts]
    recalls = [row[i] / total for i, (row, total) in enumerate(zip(counts, totals)) if total]
    return {
        "problems": found["labelled"],
        "accuracy": round(found["accuracy"], 3),
        "mean_recall": round(sum(recalls) / len(recalls), 3),
        "majority": round(max(totals) / found["labelled"], 3),
        "confusion": found["confusion"],
    }


def confusion_table(name: str, confusion: dict[str, Any]) -> Table:
    """One row for each subject that the data names."""
    table = Table("subject", *confusion["labels"], title=name)
    for label, row in zip(confusion["labels"], confusion["counts"]):
        if any(row):
            table.add_row(label, *map(str, row))
    return table


def main() -> None:
    """Print what was measured; with ``--json`` as one object on the last line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true", help="only what no weight was set on")
    parser.add_argument("--json", action="store_true", help="one object on the last line of stdout")
    arguments = parser.parse_args()
    console = Console(file=sys.stderr, highlight=False)
    found = {
        name: measure(arguments.folder / file, rows)
        for name, (file, rows, fitted) in SETS.items()
        if not (fitted and arguments.quick)
    }
    for name, numbers in found.items():
        console.print(confusion_table(name, numbers["confusion"]))
        console.print({key: value for key, value in numbers.items() if key != "confusion"})
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
