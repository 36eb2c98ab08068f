"""Execution of the pipeline: the same calls as the commands typed one by one, minus those that are up to date."""

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from padd_artifacts.manifest import read_manifest
from padd_artifacts.writer import Output
from padd_cli.app import COMMANDS
from padd_cli.console.artifacts import short_digest
from padd_cli.console.streams import divert_stdout, stderr_console
from padd_cli.flags.config import Config
from padd_cli.flags.fields import fields_of
from padd_cli.flags.resolve import RawSettings, Resolved, resolve
from padd_cli.pipeline.launched import run_launched
from padd_cli.pipeline.steps import Decision, Step, decide
from padd_cli.stage_command import StageCommand, command_line, run_stage
from padd_stages.report.options import PAGE_FILE

RAN, SKIPPED, WOULD_RUN = "ran", "up to date", "would run"
FLAG_SOURCE = "pipeline"


@dataclass(frozen=True)
class StepResult:
    """Outcome of one step."""

    step: Step
    action: str
    reason: str
    digest: str | None = None

    def as_object(self) -> dict[str, Any]:
        """Return the step's object for ``--json``."""
        return {
            "step": self.step.name,
            "action": self.action,
            "reason": self.reason,
            "path": str(self.step.out),
            "digest": self.digest,
        }


@dataclass(frozen=True)
class Runner:
    """Runner of a pipeline's steps.

    Attributes:
        commands: descriptions by command name.
        preset: the name or path that ``config`` was read from.
        without: the stages left out.
        launch: the launcher's words before the commands that run on several processes; none: they run in this one.
    """

    config: Config
    commands: Mapping[str, StageCommand]
    preset: str = ""
    without: tuple[str, ...] = ()
    launch: tuple[str, ...] = ()
    quiet: bool = False
    verbose: int = 0

    def check(self, steps: list[Step]) -> None:
        """Resolve every step's options before the first one runs: a typo in the last section must not cost hours.

        Raises:
            UsageError: an unknown key or a value that is not allowed, in any section.
        """
        for step in steps:
            self.resolve_step(step)

    def run(self, steps: list[Step], *, forced: set[str], dry_run: bool) -> list[StepResult]:
        """Run the steps in order; the result has one entry a step."""
        done: list[StepResult] = []
        stale: set[str] = set()
        for step in steps:
            waiting = [name for name in step.needs if name in stale]
            if waiting:
                done.append(StepResult(step, WOULD_RUN, f"after {', '.join(waiting)}"))
            else:
                done.append(self._step(step, forced=step.name in forced, dry_run=dry_run))
            if done[-1].action == WOULD_RUN:
                stale.add(step.name)
                self._print(step, f"would run: {done[-1].reason}")
        return done

    def _step(self, step: Step, *, forced: bool, dry_run: bool) -> StepResult:
        command = self.commands[step.command]
        resolved = self.resolve_step(step)
        if not dry_run:
            Output(step.out).put_back()
        with divert_stdout():
            plan = command.module().plan(resolved.inputs, resolved.options)
        decision = decide(step.out, plan, forced=forced)
        if not decision.needed:
            self._print(step, decision.reason)
            return StepResult(step, SKIPPED, decision.reason, read_manifest(step.out).digest)
        if dry_run:
            return StepResult(step, WOULD_RUN, decision.reason)
        found = Output(out=step.out).unfinished(plan.key)
        resume = found is not None and found.marker.key == plan.key and not forced
        reason = decision.reason
        if found is not None:
            reason += "; continuing an interrupted run" if resume else "; an interrupted run is given up"
        self._print(step, f"running: {reason}")
        digest = self._execute(command, step, resolved, decision, resume=resume)
        return StepResult(step, RAN, reason, digest)

    def _execute(
        self,
        command: StageCommand,
        step: Step,
        resolved: Resolved[Any, Any],
        decision: Decision,
        *,
        resume: bool,
    ) -> str:
        if self.launch and command.distributed:
            run_launched(
                list(self.launch),
                command,
                step,
                preset=self.preset,
                without=self.without,
                resume=resume,
                quiet=self.quiet,
                verbose=self.verbose,
            )
            digest = read_manifest(step.out).digest
            self._print(step, f"done (digest {short_digest(digest)})")
            return digest
        output = Output(
            out=step.out,
            force=step.out.exists(),
            resume=resume,
            command=command_line(),
            option_sources=resolved.sources,
            inputs=resolved.paths,
        )
        artifact = run_stage(command, resolved, output, quiet=self.quiet, verbose=self.verbose)
        self._print(step, f"done (digest {short_digest(artifact.manifest.digest)})")
        return artifact.manifest.digest

    def resolve_step(self, step: Step) -> Resolved[Any, Any]:
        command = self.commands[step.command]
        known = fields_of(command.inputs, command.options)
        unknown = set(step.inputs) - set(known)
        if unknown:
            raise TypeError(f"step {step.name} gives {sorted(unknown)}, which {command.name} does not have")
        raw = RawSettings(
            flags=step.inputs,
            environ=os.environ,
            config=self.config,
            section=step.section,
            presets_allowed=command.method_presets,
            flag_source=FLAG_SOURCE,
            without=self.without,
        )
        return resolve(command.inputs, command.options, raw)

    def _print(self, step: Step, text: str) -> None:
        if not self.quiet:
            stderr_console().print(f"{step.name}: {text}")


def load_commands(names: set[str]) -> dict[str, StageCommand]:
    """Import the descriptions of the commands that a pipeline uses."""
    return {name: importlib.import_module(f"padd_cli.commands.{COMMANDS[name][0]}").COMMAND for name in names}


def evaluation_rows(steps: list[Step]) -> list[dict[str, Any]]:
    """Return one row per evaluated model and benchmark, with the Stage III state of trained models."""
    rows = []
    for step in steps:
        if step.command == "eval" and step.out.exists():
            summary = read_manifest(step.out).summary
            row = {
                "model": step.name.removeprefix("eval/"),
                "active_parameters": summary["active_parameters"],
            }
            trained = Path(step.inputs["model"])
            if trained in [other.out for other in steps if other.command == "train"]:
                row["stage3"] = read_manifest(trained).summary.get("stage3")
            rows += [row | {"benchmark": name, **found} for name, found in summary["benchmarks"].items()]
    return rows


def report_page(steps: list[Step]) -> str | None:
    """Return the path of the report page, if it exists."""
    paths = [step.out / PAGE_FILE for step in steps if step.command == "report"]
    return next((str(path) for path in paths if path.is_file()), None)
