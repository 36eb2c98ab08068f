"""`padd plan`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from padd_cli.console.streams import divert_stdout, print_json, print_line, print_table, set_up_logging
from padd_cli.flags import flags as flags_of
from padd_cli.flags.config import load_config
from padd_cli.pipeline.planning import StepBudget, launch_on, plan_steps
from padd_cli.pipeline.runner import Runner, load_commands
from padd_cli.pipeline.steps import pipeline_settings, pipeline_steps
from padd_cli.stage_command import help_epilog, warn_of_versions
from padd_stages.lib.plots.table import duration

HELP = (
    "Estimate what each step of a preset needs of the GPUs, the host and the disk, and how long it takes, from the "
    "models' configurations alone: their weights need not be there."
)
EPILOG = help_epilog(
    "a preset, and the configurations of its models.",
    "nothing; the exit code is 1 if a step does not fit.",
    "padd plan paper-qwen --gpus 8xH100-80GB",
)
app = typer.Typer(add_completion=False, rich_markup_mode="rich")
GPUS = Annotated[
    str,
    typer.Option("--gpus", metavar="NxNAME-SIZE", help="The GPUs of one machine.", rich_help_panel="Run"),
]
LAUNCH = Annotated[
    str | None,
    typer.Option(
        "--launch",
        metavar="COMMAND",
        help="The launcher, as for `padd run`; by default the preset's.",
        rich_help_panel="Run",
    ),
]
ASSUMPTION = (
    "times: every response at its greatest length, and {compute:.0%} of the maker's FLOP/s, {transfer:.0%} of its "
    "bandwidths (chosen, not measured)"
)


@app.command("plan", help=HELP, epilog=EPILOG)
def plan(
    preset: flags_of.PIPELINE,
    gpus: GPUS = "8xH100-80GB",
    launch: LAUNCH = None,
    teacher: flags_of.PIPELINE_TEACHER = None,
    student: flags_of.PIPELINE_STUDENT = None,
    json_: flags_of.JSON = False,
    verbose: flags_of.VERBOSE = 0,
) -> None:
    """Plan the steps of a pipeline; HELP is the text that the user sees."""
    set_up_logging(verbose)
    warn_of_versions()
    from padd_stages.lib.planning.gpus import parse_gpus

    machine = parse_gpus(gpus)
    config = load_config(preset)
    settings = pipeline_settings(config, teacher=teacher, student=student)
    steps = pipeline_steps(settings, Path("runs") / Path(preset).stem)
    runner = Runner(config, load_commands({step.command for step in steps}), preset, settings.without)
    line = settings.launch if launch is None else launch
    with divert_stdout():
        planned = plan_steps(steps, runner, launch_on(line, machine), machine)
    if json_:
        print_json(
            {
                "gpus": gpus,
                "usable_gib": machine.usable_gib,
                "steps": [_as_object(p, machine) for p in planned],
            }
        )
    else:
        _show(planned, machine)
    if not all(step.fits for step in planned):
        raise typer.Exit(1)


def _as_object(planned: StepBudget, machine: Any) -> dict[str, Any]:
    found = {"step": planned.step.name, "fits": planned.fits, "cures": list(planned.cures)}
    if planned.budget is None:
        return found | {"problem": planned.problem}
    work = {
        name: {**vars(part), "seconds": machine.seconds(part)} for name, part in planned.budget.work.items()
    }
    return found | {
        "processes": planned.launch.processes,
        "sharded": planned.launch.sharded,
        **planned.budget.as_json(),
        "steps": planned.budget.steps,
        "work_of_a_step": work,
    }


def _show(planned: list[StepBudget], machine: Any) -> None:
    rows = [_row(each, machine) for each in planned if each.budget is not None]
    columns = ("step", "processes", "GiB a GPU", "fits", "host GiB", "disk GiB", "a step", "all steps")
    print_table(f"of {machine.usable_gib:.1f} GiB that count on each GPU", columns, rows)
    for each in planned:
        if each.budget is not None and each.budget.work:
            print_table(f"{each.step.name}, GiB a GPU", ("when", "part", "GiB"), _parts(each))
    for each in planned:
        if each.problem:
            print_line(f"{each.step.name}: {each.problem}")
        elif not each.fits:
            cure = f"it fits with {' '.join(each.cures)}" if each.cures else "no option of padd makes it fit"
            print_line(f"{each.step.name} does not fit: {cure}")
    if machine.rates is not None:
        from padd_stages.lib.planning.gpus import COMPUTE_SHARE, TRANSFER_SHARE

        print_line(ASSUMPTION.format(compute=COMPUTE_SHARE, transfer=TRANSFER_SHARE))


def _row(planned: StepBudget, machine: Any) -> tuple[Any, ...]:
    budget = planned.budget
    assert budget is not None
    seconds = [machine.seconds(part) for part in budget.work.values()]
    timed = bool(seconds) and None not in seconds
    how = f"{planned.launch.processes}{', sharded' if planned.launch.sharded else ''}"
    return (
        planned.step.name,
        how,
        f"{budget.peak_gib:.1f}",
        "yes" if planned.fits else "no",
        f"{sum(budget.host.values()):.0f}" if budget.host else "",
        f"{sum(budget.disk.values()):.0f}" if budget.disk else "",
        duration(sum(seconds)) if timed else "",
        duration(budget.steps * sum(seconds)) if timed else "",
    )


def _parts(planned: StepBudget) -> list[tuple[str, str, str]]:
    budget = planned.budget
    assert budget is not None
    phases = {"throughout": budget.held, **budget.phases}
    return [(when, part, f"{gib:.2f}") for when, parts in phases.items() for part, gib in parts.items()]
