"""Executing the pipeline: the same calls as the commands typed one by one, minus those that are up to date."""

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from padd_artifacts.manifest import read_manifest
from padd_artifacts.writer import Output
from padd_cli.app import COMMANDS
from padd_cli.console.artifacts import short
from padd_cli.console.streams import people, stdout_kept_clean
from padd_cli.flags.config import Config
from padd_cli.flags.fields import fields_of
from padd_cli.flags.resolve import Given, Resolved, resolve
from padd_cli.pipeline.steps import Step, Verdict, judge
from padd_cli.stage_command import StageCommand, command_line, run_stage
from padd_stages.report.options import PAGE_FILE

RAN, SKIPPED, WOULD_RUN = "ran", "up to date", "would run"
FLAG_SOURCE = "pipeline"


@dataclass(frozen=True)
class Done:
    """What became of one step."""

    step: Step
    action: str
    reason: str
    digest: str | None = None

    def as_object(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "step": self.step.name,
            "action": self.action,
            "reason": self.reason,
            "path": str(self.step.out),
            "digest": self.digest,
        }


@dataclass(frozen=True)
class Runner:
    """Runs steps of one pipeline. ``commands`` maps a command's name to its description, ``without`` is an ablation."""

    config: Config
    commands: Mapping[str, StageCommand]
    without: tuple[str, ...] = ()
    quiet: bool = False
    verbose: int = 0

    def check(self, steps: list[Step]) -> None:
        """Resolve every step's options before the first one runs: a typo in the last section must not cost hours.

        Raises:
            UsageError: an unknown key or a value that is not allowed, in any section.
        """
        for step in steps:
            self._resolve(step)

    def run(self, steps: list[Step], *, forced: set[str], dry_run: bool) -> list[Done]:
        """Run the steps in order; the result has one entry a step."""
        done: list[Done] = []
        stale: set[str] = set()
        for step in steps:
            waiting = [name for name in step.needs if name in stale]
            if waiting:
                done.append(Done(step, WOULD_RUN, f"after {', '.join(waiting)}"))
            else:
                done.append(self._step(step, forced=step.name in forced, dry_run=dry_run))
            if done[-1].action == WOULD_RUN:
                stale.add(step.name)
                self._say(step, f"would run: {done[-1].reason}")
        return done

    def _step(self, step: Step, *, forced: bool, dry_run: bool) -> Done:
        command = self.commands[step.command]
        resolved = self._resolve(step)
        if not dry_run:
            Output(step.out).put_back()
        with stdout_kept_clean():
            plan = command.module().plan(resolved.inputs, resolved.options)
        verdict = judge(step.out, plan, forced=forced)
        if not verdict.needed:
            self._say(step, verdict.reason)
            return Done(step, SKIPPED, verdict.reason, read_manifest(step.out).digest)
        if dry_run:
            return Done(step, WOULD_RUN, verdict.reason)
        found = Output(out=step.out).unfinished(plan.key)
        resume = found is not None and found.marker.key == plan.key and not forced
        reason = verdict.reason
        if found is not None:
            reason += "; continuing an interrupted run" if resume else "; an interrupted run is given up"
        self._say(step, f"running: {reason}")
        digest = self._execute(command, step, resolved, verdict, resume=resume)
        return Done(step, RAN, reason, digest)

    def _execute(
        self,
        command: StageCommand,
        step: Step,
        resolved: Resolved[Any, Any],
        verdict: Verdict,
        *,
        resume: bool,
    ) -> str:
        output = Output(
            out=step.out,
            force=step.out.exists(),
            resume=resume,
            command=command_line(),
            option_sources=resolved.sources,
            inputs=resolved.paths,
        )
        artifact = run_stage(command, resolved, output, quiet=self.quiet, verbose=self.verbose)
        self._say(step, f"done (digest {short(artifact.manifest.digest)})")
        return artifact.manifest.digest

    def _resolve(self, step: Step) -> Resolved[Any, Any]:
        command = self.commands[step.command]
        known = fields_of(command.inputs, command.options)
        unknown = set(step.inputs) - set(known)
        if unknown:
            raise TypeError(f"step {step.name} gives {sorted(unknown)}, which {command.name} does not have")
        given = Given(
            flags=step.inputs,
            environ=os.environ,
            config=self.config,
            section=step.section,
            presets_allowed=command.method_presets,
            flag_source=FLAG_SOURCE,
            without=self.without,
        )
        return resolve(command.inputs, command.options, given)

    def _say(self, step: Step, text: str) -> None:
        if not self.quiet:
            people().print(f"{step.name}: {text}")


def load_commands(names: set[str]) -> dict[str, StageCommand]:
    """The descriptions of the commands that a pipeline uses."""
    return {name: importlib.import_module(f"padd_cli.commands.{COMMANDS[name][0]}").COMMAND for name in names}


def results(steps: list[Step]) -> list[dict[str, Any]]:
    """One row per evaluated model and benchmark, with what the training says of itself."""
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


def page(steps: list[Step]) -> str | None:
    """Path of the page that stands there."""
    paths = [step.out / PAGE_FILE for step in steps if step.command == "report"]
    return next((str(path) for path in paths if path.is_file()), None)
