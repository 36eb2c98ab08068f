"""The tables of an evaluation's report: a row a benchmark, then accuracies by subject and level."""

from typing import Any

from padd_cli.console.streams import say_table

MODES = ("greedy", "sampled")
HEAD = ("benchmark", "problems", "greedy", "95 % interval", "avg@k", "95 % interval", "pass@k", "maj@k")
LENGTHS = ("mean tokens", "truncated")


def show_evaluation(report: dict[str, Any]) -> None:
    """Print them, in %."""
    benchmarks: dict[str, Any] = report["benchmarks"]
    rows = [_row(name, entry) for name, entry in benchmarks.items()]
    if len(benchmarks) > 1:
        average = [percent(report["average"]), interval(*report["average_interval"])]
        rows.append(["average of the headlines", "", *average, *[""] * (len(HEAD) + len(LENGTHS) - 4)])
    say_table("accuracy, %", (*HEAD, *LENGTHS), rows)
    for label in ("subjects", "levels"):
        say_table(
            f"accuracy by {label.removesuffix('s')}, %",
            ("benchmark", label.removesuffix("s"), "problems", "accuracy", "95 % interval"),
            [
                (
                    name,
                    group,
                    numbers["problems"],
                    percent(numbers["accuracy"]),
                    interval(*numbers["interval"]),
                )
                for name, entry in benchmarks.items()
                for group, numbers in entry[entry["headline"]][label].items()
            ],
        )


def percent(share: float) -> str:
    """A share in %, one decimal."""
    return f"{100 * share:.1f}"


def interval(low: float, high: float) -> str:
    """Two shares in %."""
    return f"{percent(low)} to {percent(high)}"


def _row(name: str, entry: dict[str, Any]) -> list[str]:
    cells = [name, str(entry["problems"])]
    for mode in MODES:
        numbers = entry.get(mode)
        cells += (
            ["", ""] if numbers is None else [percent(numbers["accuracy"]), interval(*numbers["interval"])]
        )
    cells += ["", ""]
    if "sampled" in entry:
        sampled = entry["sampled"]
        k = sampled["samples"]
        cells[4] += f" (k {k})"
        cells[6:] = [percent(sampled["pass_at_k"][str(k)]), percent(sampled["maj_at_k"])]
    headline = entry[entry["headline"]]
    lengths = headline["tokens"]
    return [
        *cells,
        "" if lengths is None else f"{lengths['mean']:.0f}",
        f"{percent(headline['truncated'])} %",
    ]
