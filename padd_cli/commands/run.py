"""`padd run`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from padd_cli.console.artifacts import short_digest
from padd_cli.console.processes import refuse_launcher
from padd_cli.console.streams import (
    print_json,
    print_table,
    print_warning,
    set_up_logging,
    show_table,
    stderr_console,
)
from padd_cli.flags import flags as flags_of
from padd_cli.flags.ablations import parse_without
from padd_cli.flags.config import load_config, preset_names
from padd_cli.pipeline.launched import launcher
from padd_cli.pipeline.planning import check_memory, launch_on
from padd_cli.pipeline.runner import (
    RAN,
    WOULD_RUN,
    Runner,
    StepResult,
    evaluation_rows,
    load_commands,
    report_page,
)
from padd_cli.pipeline.steps import Step, pipeline_settings, pipeline_steps, step_index
from padd_cli.stage_command import help_epilog, warn_of_versions
from padd_stages.lib.plots.table import Cell, Table, cell, share

HELP = (
    "Run a preset's stages in order, each into its own folder, and skip those whose result is up to date: "
    "the same calls, and the same digests, as the commands typed one by one with --config PRESET."
)
EPILOG = help_epilog(
    f"a preset: {', '.join(preset_names())}, or a YAML file with a section 'pipeline:'.",
    "the folders toy, split, teacher-grpo, clusters, warmup, train, eval/*, experts and report under --out.",
    "padd run toy",
)
app = typer.Typer(add_completion=False, rich_markup_mode="rich")


OUT = Annotated[
    str | None,
    typer.Option(
        "--out",
        metavar="DIR",
        help="Folder of all results; by default runs/PRESET, or runs/PRESET-without-STAGES.",
        show_default=False,
        rich_help_panel="Artifacts",
    ),
]
HELD_OUT = "d"  # what an evaluation calls a split's D_D
UNTIL = Annotated[
    str | None,
    typer.Option("--until", metavar="STEP", help="Stop after this step.", rich_help_panel="Run"),
]
FORCE_FROM = Annotated[
    str | None,
    typer.Option(
        "--force-from", metavar="STEP", help="Run this step and those after it anew.", rich_help_panel="Run"
    ),
]
WITHOUT = Annotated[
    str | None,
    typer.Option(
        "--without",
        metavar="STAGES",
        help="Ablation: leave stages out, e.g. stage1,stage3; instead of what the preset leaves out.",
        rich_help_panel="Run",
    ),
]
LAUNCH = Annotated[
    str | None,
    typer.Option(
        "--launch",
        metavar="COMMAND",
        help="Start the steps that run models on several processes with it, e.g. 'torchrun --nproc-per-node 8'; "
        "else the preset's `pipeline: launch`.",
        rich_help_panel="Run",
    ),
]


@app.command("run", help=HELP, epilog=EPILOG)
def run(
    preset: flags_of.PIPELINE,
    out: OUT = None,
    until: UNTIL = None,
    force_from: FORCE_FROM = None,
    without: WITHOUT = None,
    launch: LAUNCH = None,
    teacher: flags_of.PIPELINE_TEACHER = None,
    student: flags_of.PIPELINE_STUDENT = None,
    dry_run: flags_of.DRY_RUN = False,
    json_: flags_of.JSON = False,
    quiet: flags_of.QUIET = False,
    verbose: flags_of.VERBOSE = 0,
) -> None:
    """Run the steps of a pipeline; HELP is the text that the user sees."""
    set_up_logging(verbose)
    refuse_launcher("run", "name the launcher with --launch")
    warn_of_versions()
    config = load_config(preset)
    settings = pipeline_settings(config, teacher=teacher, student=student)
    left_out = settings.without
    name = Path(preset).stem
    if without is not None:  # a folder of its own: what it is to be compared with must not be replaced
        left_out = parse_without(without, "--without")
        name = "-".join([name, "without", *left_out])
    root = Path(out) if out is not None else Path("runs") / name
    steps = pipeline_steps(settings, root)
    forced: set[str] = set()
    if force_from is not None:
        first = step_index(steps, force_from, last=False, flag="--force-from")
        forced = {step.name for step in steps[first:]}
    if until is not None:
        steps = steps[: step_index(steps, until, last=True, flag="--until") + 1]
    commands = load_commands({step.command for step in steps})
    line = settings.launch if launch is None else launch
    runner = Runner(
        config,
        commands,
        preset,
        left_out,
        launch=() if line is None else tuple(launcher(line)),
        quiet=quiet,
        verbose=verbose,
    )
    runner.check(steps)
    if settings.teacher_tuned and not quiet:
        stderr_console().print("teacher-grpo: skipped, the preset says that the teacher is already tuned")
    if not dry_run:
        _check_memory([step for step in steps if step.name in forced or not step.out.exists()], runner, line)
    done = runner.run(steps, forced=forced, dry_run=dry_run)
    _show(done, steps, root, dry_run=dry_run, as_json=json_, quiet=quiet)


def _check_memory(steps: list[Step], runner: Runner, line: str | None) -> None:
    """Refuse what the GPUs of this machine cannot hold, and warn of what they may not."""
    from padd_stages.lib.planning.gpus import present_gpus

    gpus = present_gpus() if steps else None
    if gpus is not None:
        for text in check_memory(steps, runner, launch_on(line, gpus), gpus):
            print_warning(text)


def _show(
    done: list[StepResult], steps: list[Step], root: Path, *, dry_run: bool, as_json: bool, quiet: bool
) -> None:
    rows = [] if dry_run else evaluation_rows(steps)
    page = None if dry_run else report_page(steps)
    if as_json:
        print_json({"out": str(root), "steps": [d.as_object() for d in done], "results": rows, "page": page})
        return
    if not quiet and all(d.action not in (RAN, WOULD_RUN) for d in done):
        stderr_console().print(f"everything is up to date in {root}; nothing was run")
    if dry_run:
        table = [(d.step.name, d.action, d.reason, str(d.step.out)) for d in done]
        print_table("plan (nothing is written)", ("step", "", "why", "folder"), table)
        return
    for name in dict.fromkeys(row["benchmark"] for row in rows):
        title = "D_D" if name == HELD_OUT else name
        cells = [_result_row(row) for row in rows if row["benchmark"] == name]
        show_table(Table.of(f"accuracy on {title}, % (95 % interval over problems)", cells))
    if page is not None:
        print_table("", ("", ""), [("page", page)])
    else:
        print_table(
            "results",
            ("step", "digest", "folder"),
            [(d.step.name, short_digest(d.digest or ""), d.step.out) for d in done],
        )


def _result_row(row: dict[str, Any]) -> dict[str, Cell]:
    from padd_stages.compare.evaluations import LABELLED_STATES

    state, active = row.get("stage3"), row.get("active_parameters")
    note = f" (Stage III {state})" if state in LABELLED_STATES else ""
    cells = {"model": Cell(f"{row['model']}{note}"), "problems": cell(row.get("problems"), "d")}
    for mode in ("greedy", "sampled"):
        if row.get(mode) is not None:
            cells[mode] = share(row[mode], (row[f"{mode}_low"], row[f"{mode}_high"]))
    return cells | {"active parameters": cell(active, ",d")}
