"""`padd compare`."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from padd_artifacts.writer import Output
from padd_cli.console.processes import refuse_launcher
from padd_cli.console.streams import people, say_json, say_table, set_up_logging, show_table
from padd_cli.flags import flags as flags_of
from padd_cli.flags.resolve import Given, resolve
from padd_cli.stage_command import command_line, help_end
from padd_stages.compare.options import CompareOptions
from padd_stages.lib.options.base import Inputs
from padd_stages.lib.options.runs import parse_runs

if TYPE_CHECKING:
    from padd_stages.compare.methods import Comparison

HELP = (
    "Compare methods over seeds and benchmarks: accuracies with 95 % intervals, differences to one of them, the "
    "paper's numbers beside them."
)
EPILOG = help_end(
    "evaluations that padd eval wrote, of the same problems.",
    "with --out a comparison: report.json, table.md, table.csv and accuracy.png; else nothing.",
    "padd compare GRPO=runs/grpo-0,runs/grpo-1 PADD=runs/padd-0,runs/padd-1 --against GRPO --out runs/table",
)
RUNS = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN...",
        show_default=False,
        help="NAME=DIR[,DIR...], the evaluations of a method's seeds; a NAME may be repeated for more of them. "
        "A DIR alone is a method of one seed, called like the folder.",
    ),
]
OUT = Annotated[
    str | None,
    typer.Option(
        "--out",
        metavar="DIR",
        show_default=False,
        help="Write the tables and the chart there; new or empty.",
        rich_help_panel="Artifacts",
    ),
]


def compare(
    flags: Mapping[str, Any],
    *,
    runs: Sequence[str],
    out: str | None,
    force: bool,
    json_: bool,
    verbose: int,
) -> None:
    """Parse, one call, print."""
    from padd_stages.compare.stage import measure, write

    set_up_logging(verbose)
    refuse_launcher("compare")
    resolved = resolve(Inputs, CompareOptions, Given(flags, os.environ))
    folders = parse_runs(runs)
    output = None
    if out is not None:
        output = Output(
            Path(out),
            force=force,
            command=command_line(),
            option_sources=resolved.sources,
            inputs=tuple(folder for listed in folders.values() for folder in listed),
        )
        output.check()
    plan, comparison = measure(folders, resolved.options)
    artifact = write(comparison, plan, output) if output is not None else None
    written = {"path": str(artifact.path), "digest": artifact.manifest.digest} if artifact is not None else {}
    if json_:
        say_json(comparison.as_json() | written)
        return
    show(comparison)
    say_table("", ("", ""), list(written.items()))


def show(comparison: "Comparison") -> None:
    """The tables on stdout, the best of each column in bold; what weakens them on stderr."""
    from padd_stages.compare.view import tables

    for table in tables(comparison):
        show_table(table)
    for note in comparison.notes:
        people().print(f"note: {note}")


app = typer.Typer(add_completion=False, rich_markup_mode="rich")
COMMON = {
    "runs": (RUNS, ...),
    "out": (OUT, None),
    "force": (flags_of.FORCE, False),
    "json_": (flags_of.JSON, False),
    "verbose": (flags_of.VERBOSE, 0),
}
app.command("compare", help=HELP, epilog=EPILOG)(flags_of.with_flags(compare, Inputs, CompareOptions, COMMON))
