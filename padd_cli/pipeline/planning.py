"""The memory and time of a pipeline's steps, and the options that make a step fit."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from padd_artifacts.errors import PaddError
from padd_cli.flags.resolve import Resolved
from padd_cli.pipeline.launched import is_sharded
from padd_cli.pipeline.runner import Runner
from padd_cli.pipeline.steps import Step
from padd_cli.stage_command import StageCommand
from padd_stages.lib.runtime.launcher import Launch

if TYPE_CHECKING:
    from padd_stages.lib.planning.budget import Budget
    from padd_stages.lib.planning.gpus import Gpus

LEAST_TOKENS = 1024  # chosen: a smaller batch only costs time


@dataclass(frozen=True)
class StepBudget:
    """What a step needs.

    Attributes:
        budget: None where it cannot be told, for the reason in ``problem``.
        cures: options that make the step fit, where it does not; empty if none do.
    """

    step: Step
    launch: Launch
    budget: "Budget | None" = None
    problem: str = ""
    fits: bool = True
    cures: tuple[str, ...] = ()


def origins(steps: list[Step]) -> dict[str, str]:
    """Return the model that each step's result has the shape of, by the path that later steps name it by."""
    found: dict[str, str] = {}
    for step in steps:
        if step.command in ("train", "warmup"):
            student = step.inputs["student"]
            found[str(step.out)] = found.get(student, student)
    return found


def with_origins(step: Step, found: dict[str, str]) -> Step:
    """Replace the models that earlier steps will write by those that they start from."""
    return replace(step, inputs={name: found.get(value, value) for name, value in step.inputs.items()})


def plan_steps(steps: list[Step], runner: Runner, launch: Launch, gpus: "Gpus") -> list[StepBudget]:
    """Estimate what each step that runs a model needs; what earlier steps will write has its origin's shape."""
    found, planned = origins(steps), []
    for step in steps:
        command = runner.commands[step.command]
        if command.budget is not None:
            resolved = runner.resolve_step(with_origins(step, found))
            planned.append(step_budget(step, command, resolved, launch, gpus))
    return planned


def launch_on(line: str | None, gpus: "Gpus") -> Launch:
    """Return the launch that a launcher's command line makes on GPUs: a process each; without one a single process."""
    return Launch() if line is None else Launch(gpus.count, is_sharded(line) and gpus.count > 1)


def check_memory(steps: list[Step], runner: Runner, launch: Launch, gpus: "Gpus") -> list[str]:
    """Refuse a run of which a step does not fit on the GPUs, before the first has taken its hours.

    Returns:
        Warnings about steps that fit unless all responses are of the greatest length.

    Raises:
        PaddError: what a step holds throughout is more than a GPU has.
    """
    warnings = []
    for planned in plan_steps(steps, runner, launch, gpus):
        budget = planned.budget
        if planned.fits or budget is None:  # what cannot be planned, the step itself will refuse
            continue
        way = f"take {' '.join(planned.cures)}" if planned.cures else "`padd plan` shows what takes it"
        place = f"on each of {gpus.count} GPUs" if launch.processes > 1 else "on the GPU"
        if budget.held_gib > gpus.usable_gib:
            raise PaddError(
                f"{planned.step.name} holds {budget.held_gib:.1f} GiB {place}, of which {gpus.usable_gib:.1f} count, "
                f"so the run would end there; {way}."
            )
        warnings.append(
            f"{planned.step.name} needs {budget.peak_gib:.1f} GiB {place} if all responses are of the greatest length, "
            f"and {gpus.usable_gib:.1f} count, so it may run out of memory; {way}."
        )
    return warnings


def step_budget(
    step: Step, command: StageCommand, resolved: Resolved[Any, Any], launch: Launch, gpus: "Gpus"
) -> StepBudget:
    """Estimate what a step needs of the GPUs, and look for options that make it fit."""
    try:
        budget = command.estimate(resolved.inputs, resolved.options, launch)
    except PaddError as error:
        return StepBudget(step, launch, problem=str(error), fits=False)
    if budget.peak_gib <= gpus.usable_gib:
        return StepBudget(step, launch, budget)
    return StepBudget(step, launch, budget, fits=False, cures=_cures(command, resolved, launch, gpus))


def _cures(
    command: StageCommand, resolved: Resolved[Any, Any], launch: Launch, gpus: "Gpus"
) -> tuple[str, ...]:
    """Change the options that save memory, those that cost least first, until the step fits; empty if it never does."""
    inputs, options, cures = resolved.inputs, resolved.options, dict[str, str]()
    least = command.estimate(inputs, options, launch).peak_gib
    for name, change in _changes(gpus):
        while (changed := change(launch, options)) is not None:
            peak = command.estimate(inputs, changed[1], changed[0]).peak_gib
            if peak >= least:
                break
            least, (launch, options) = peak, changed
            cures[name] = "--launch fsdp2" if name == LAUNCH else _flag(name, getattr(options, name))
            if peak <= gpus.usable_gib:
                return tuple(cures.values())
    return ()


LAUNCH = "launch"
Change = Callable[
    [Launch, Any], tuple[Launch, Any] | None
]  # None: it has been made, or there is no such option


def _changes(gpus: "Gpus") -> Iterator[tuple[str, Change]]:
    def shard(launch: Launch, options: Any) -> tuple[Launch, Any] | None:
        return None if gpus.count == 1 or launch.sharded else (Launch(gpus.count, sharded=True), options)

    def setting(name: str, before: Any, after: Any) -> Change:
        return lambda launch, options: (
            (launch, options.model_copy(update={name: after}))
            if getattr(options, name, after) == before
            else None
        )

    def halving(name: str) -> Change:
        return lambda launch, options: (
            (launch, options.model_copy(update={name: getattr(options, name) // 2}))
            if getattr(options, name, 0) >= 2 * LEAST_TOKENS
            else None
        )

    yield LAUNCH, shard
    yield "gradient_checkpointing", setting("gradient_checkpointing", False, True)
    if gpus.count > 1:
        yield "teacher_device", setting("teacher_device", None, "shard")
    for name in ("micro_batch_tokens", "generation_batch_tokens", "batch_tokens"):
        yield name, halving(name)
    yield "optimizer", setting("optimizer", "adamw", "adamw-8bit")  # last: it alone changes what is computed


def _flag(name: str, value: Any) -> str:
    flag = f"--{name.replace('_', '-')}"
    return flag if value is True else f"{flag} {value}"
