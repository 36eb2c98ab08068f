"""`padd report`."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from padd_artifacts.errors import UsageError
from padd_artifacts.writer import Output
from padd_cli import options as flags_of
from padd_cli.commands.compare import parse_runs
from padd_cli.console import say_json, say_table, set_up_logging
from padd_cli.launched import refuse_launcher
from padd_cli.resolve import Given, resolve
from padd_cli.results import artifact_object
from padd_cli.stage_command import command_line, help_end
from padd_stages.options.base import Inputs
from padd_stages.options.report import ReportOptions

HELP = (
    "Tell the story of a run, or of several beside each other, on one HTML page that needs no network: accuracies, "
    "Stage I, training, routing, samples, and where all of it came from."
)
EPILOG = help_end(
    "folders of runs, or their artifacts: students, evaluations, expert reports; what belongs together is found by "
    "the digests of their parents.",
    "a report: index.html, its numbers as report.json, its figures as PNG.",
    "padd report GRPO=runs/grpo-0,runs/grpo-1 PADD=runs/padd-0,runs/padd-1 --out runs/report",
)
RUNS = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN...",
        show_default=False,
        help="NAME=DIR[,DIR...], the folders of a method's runs and evaluations; a NAME may be repeated for more of "
        "them. A DIR alone is a method called like the folder.",
    ),
]
COMMON = {
    "runs": (RUNS, ...),
    "out": (flags_of.OUT, None),
    "force": (flags_of.FORCE, False),
    "json_": (flags_of.JSON, False),
    "verbose": (flags_of.VERBOSE, 0),
}


def report(
    flags: Mapping[str, Any], *, runs: Sequence[str], out: str | None, force: bool, json_: bool, verbose: int
) -> None:
    """Parse, one call, print."""
    from padd_stages import write_report

    set_up_logging(verbose)
    refuse_launcher("report")
    resolved = resolve(Inputs, ReportOptions, Given(flags, os.environ))
    if out is None:
        raise UsageError("--out is needed (the folder of the result); for instance --out runs/report.")
    output = Output(Path(out), force=force, command=command_line(), option_sources=resolved.sources)
    output.check()
    artifact = write_report.run(write_report.plan(parse_runs(runs), resolved.options), output)
    page = artifact.path / write_report.PAGE_FILE
    if json_:
        say_json(artifact_object(artifact) | {"page": str(page)})
        return
    say_table("", ("", ""), [("page", str(page)), ("digest", artifact.manifest.digest)])


app = typer.Typer(add_completion=False, rich_markup_mode="rich")
app.command("report", help=HELP, epilog=EPILOG)(flags_of.with_flags(report, Inputs, ReportOptions, COMMON))
