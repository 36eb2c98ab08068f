"""`padd report`: a stage whose runs are words of the command line instead of a flag."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from padd_artifacts.errors import UsageError
from padd_artifacts.writer import Output
from padd_cli.console.artifacts import artifact_object
from padd_cli.console.processes import refuse_launcher
from padd_cli.console.streams import say_json, say_table, set_up_logging
from padd_cli.flags import flags as flags_of
from padd_cli.flags.resolve import Given, resolve
from padd_cli.stage_command import StageCommand, command_line, help_end, run_stage
from padd_stages.lib.options.base import Inputs
from padd_stages.report.options import PAGE_FILE, ReportInputs, ReportOptions

COMMAND = StageCommand(
    name="report",
    stage="padd_stages.report.stage",
    inputs=ReportInputs,
    options=ReportOptions,
    help=(
        "Tell the story of a run, or of several beside each other, on one HTML page that needs no network: accuracies, "
        "Stage I, training, routing, samples, and where all of it came from."
    ),
    reads=(
        "folders of runs, or their artifacts: students, evaluations, expert reports; what belongs together is found by "
        "the digests of their parents."
    ),
    writes="a report: index.html, its numbers as report.json, its figures as PNG.",
    example="padd report GRPO=runs/grpo-0,runs/grpo-1 PADD=runs/padd-0,runs/padd-1 --out runs/report",
)
RUNS = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN...", show_default=False, help=ReportInputs.model_fields["runs"].metadata[0].help
    ),
]
COMMON = {
    "runs": (RUNS, ...),
    "out": (flags_of.OUT, None),
    "force": (flags_of.FORCE, False),
    "json_": (flags_of.JSON, False),
    "quiet": (flags_of.QUIET, False),
    "verbose": (flags_of.VERBOSE, 0),
}


def report(
    flags: Mapping[str, Any],
    *,
    runs: Sequence[str],
    out: str | None,
    force: bool,
    json_: bool,
    quiet: bool,
    verbose: int,
) -> None:
    """Parse, one call, print."""
    set_up_logging(verbose)
    refuse_launcher(COMMAND.name)
    resolved = resolve(ReportInputs, ReportOptions, Given({**flags, "runs": runs}, os.environ))
    if out is None:
        raise UsageError(f"--out is needed (the folder of the result); for instance `{COMMAND.example}`.")
    output = Output(
        Path(out),
        force=force,
        command=command_line(),
        option_sources=resolved.sources,
        inputs=resolved.paths,
    )
    output.check()
    artifact = run_stage(COMMAND, resolved, output, quiet=quiet, verbose=verbose)
    page = str(artifact.path / PAGE_FILE)
    if json_:
        say_json(artifact_object(artifact) | {"page": page})
        return
    say_table("", ("", ""), [("page", page), ("digest", artifact.manifest.digest)])


app = typer.Typer(add_completion=False, rich_markup_mode="rich")
app.command("report", help=COMMAND.help, epilog=help_end(COMMAND.reads, COMMAND.writes, COMMAND.example))(
    flags_of.with_flags(report, Inputs, ReportOptions, COMMON)
)
