"""Common part of the stage commands: flags from the models, one call of the stage, the result printed."""

import importlib
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import typer
from rich.markup import escape

from padd_artifacts.artifact import Artifact
from padd_artifacts.errors import PaddError, UsageError
from padd_artifacts.plan import Plan
from padd_artifacts.writer import Output
from padd_cli.console.artifacts import show_artifact, show_plan, show_report
from padd_cli.console.processes import refuse_launcher
from padd_cli.console.progress import ConsoleReporter
from padd_cli.console.streams import divert_stdout, print_json, print_warning, set_up_logging, stderr_console
from padd_cli.flags import flags as flags_of
from padd_cli.flags.ablations import ablated_stages, check_owner, parse_without, without_of
from padd_cli.flags.config import SECTIONS, load_config
from padd_cli.flags.resolve import RawSettings, Resolved, resolve
from padd_stages.lib.compat.probes import unknown_versions
from padd_stages.lib.options.base import Inputs, Options
from padd_stages.lib.runtime.launcher import Launch, is_main_process
from padd_stages.lib.runtime.reporter import Reporter

if TYPE_CHECKING:
    from padd_stages.lib.planning.budget import Budget


class StageModule(Protocol):
    """Interface of the modules of ``padd_stages`` that are stages."""

    def plan(self, inputs: Any, options: Any) -> Plan:
        """Open and check the inputs."""
        ...

    def run(self, inputs: Any, options: Any, output: Output, reporter: Reporter) -> Artifact:
        """Run the stage and write its artifact."""
        ...

    def preview(self, inputs: Any, options: Any) -> dict[str, Any]:
        """Return the numbers of ``report.json``; only of stages that can do without an output."""
        ...


@dataclass(frozen=True)
class StageCommand:
    """One stage as a command. ``stage`` is the module's name; it is imported only when the command runs."""

    name: str
    stage: str
    inputs: type[Inputs]
    options: type[Options]
    help: str
    reads: str
    writes: str
    example: str
    resumable: bool = False
    method_presets: bool = False
    distributed: bool = False
    page: str | None = None
    """File of the result to open in a browser."""
    preview: str | None = None
    """The kind of artifact that the stage shows without --out, writing nothing."""
    budget: str | None = None
    """The module that estimates memory and time, of stages that run a model."""

    def module(self) -> StageModule:
        """Import the stage (and with it torch)."""
        return cast(StageModule, importlib.import_module(self.stage))

    def estimate(self, inputs: Inputs, options: Options, launch: Launch) -> "Budget":
        """Estimate what each process of a launch needs.

        Raises:
            PaddError: the configuration of a model cannot be read, or its code runs only with weights.
        """
        assert self.budget is not None
        return importlib.import_module(self.budget).budget(inputs, options, launch)

    @property
    def sections(self) -> list[str]:
        """The sections of a config file that this command can read; its own comes first."""
        own = [section for section, command in SECTIONS.items() if command == self.name]
        return sorted(own, key=lambda section: section != self.name)


def stage_app(command: StageCommand) -> typer.Typer:
    """Build the typer app of one stage command."""
    app = typer.Typer(add_completion=False, rich_markup_mode="rich")
    add_stage(app, command, command.name)
    return app


def add_stage(app: typer.Typer, command: StageCommand, name: str) -> None:
    """Add a stage command under ``name`` to a typer app."""

    def body(flags: Mapping[str, Any], **common: Any) -> None:
        run_stage_command(command, flags, CommonFlags(**common))

    function = flags_of.with_flags(body, command.inputs, command.options, _common_flags(command))
    epilog = help_epilog(command.reads, command.writes, command.example)
    app.command(name, help=escape(command.help), epilog=epilog)(function)


def _common_flags(command: StageCommand) -> dict[str, tuple[Any, Any]]:
    """Return the flags that are no options of the stage: name -> (annotation, default)."""
    common: dict[str, tuple[Any, Any]] = {"out": (flags_of.OUT, None), "force": (flags_of.FORCE, False)}
    if command.resumable:
        common["resume"] = (flags_of.RESUME, False)
    common["config"] = (flags_of.CONFIG, None)
    if len(command.sections) > 1:
        common["section"] = (flags_of.SECTION, None)
    if command.method_presets:
        common["preset"] = (flags_of.PRESET, None)
    if ablated_stages(command.name):
        common["without"] = (flags_of.WITHOUT, None)
    return common | {
        "dry_run": (flags_of.DRY_RUN, False),
        "json_": (flags_of.JSON, False),
        "quiet": (flags_of.QUIET, False),
        "verbose": (flags_of.VERBOSE, 0),
    }


def help_epilog(reads: str, writes: str, example: str) -> str:
    """Return the end of every command's help."""
    return escape(f"Reads: {reads}\n\nWrites: {writes}\n\nExample: {example}")


@dataclass(frozen=True)
class CommonFlags:
    """Flags of a stage command that are no options of the stage."""

    out: str | None = None
    force: bool = False
    resume: bool = False
    config: str | None = None
    section: str | None = None
    preset: str | None = None
    without: str | None = None
    dry_run: bool = False
    json_: bool = False
    quiet: bool = False
    verbose: int = 0


def run_stage_command(command: StageCommand, flags: Mapping[str, Any], common: CommonFlags) -> None:
    """Resolve the options, call the stage, print the result.

    Raises:
        PaddError: whatever the resolution or the stage refuses.
    """
    set_up_logging(common.verbose)
    if not command.distributed:
        refuse_launcher(command.name)
    warn_of_versions()
    resolved = resolve(command.inputs, command.options, _raw_settings(command, flags, common))
    out = _out(common, resolved)
    if out is None and command.preview and not common.dry_run:
        with divert_stdout():
            report = command.module().preview(resolved.inputs, resolved.options)
        print_json(report) if common.json_ else show_report(command.preview, report)
        return
    if out is None and not common.dry_run:
        raise UsageError(f"--out is needed (the folder of the result); for instance `{command.example}`.")
    if common.dry_run:
        with divert_stdout():
            plan = command.module().plan(resolved.inputs, resolved.options)
        if is_main_process():
            memory = _memory(command, resolved)
            show_plan(plan, resolved.sources, out=out, memory=memory, as_json=common.json_)
        return
    output = Output(
        out=cast(Path, out),
        force=common.force,
        resume=common.resume,
        command=command_line(),
        option_sources=resolved.sources,
        inputs=resolved.paths,
    )
    output.check()
    waiting = output.unfinished()
    if waiting is not None and not (common.resume or common.force):
        raise PaddError(
            f"{waiting.path} holds an interrupted run, which starting anew would throw away; "
            "--resume to continue it, or --force to start anew."
        )
    artifact = run_stage(command, resolved, output, quiet=common.quiet, verbose=common.verbose)
    if is_main_process():
        show_artifact(artifact, page=command.page, as_json=common.json_)


def _memory(command: StageCommand, resolved: Resolved[Any, Any]) -> dict[str, Any] | None:
    """Return the memory of one process under the present launch; None, with a warning, where it cannot be told."""
    if command.budget is None:
        return None
    try:
        with divert_stdout():
            return command.estimate(resolved.inputs, resolved.options, Launch.current()).as_json()
    except PaddError as error:
        print_warning(str(error))
        return None


def run_stage(
    command: StageCommand, resolved: Resolved[Any, Any], output: Output, *, quiet: bool, verbose: int
) -> Artifact:
    """Call the stage with a reporter on stderr; nothing that it prints reaches stdout."""
    quiet = quiet or not is_main_process()
    with divert_stdout(), ConsoleReporter(stderr_console(), quiet=quiet, verbose=verbose) as reporter:
        return command.module().run(resolved.inputs, resolved.options, output, reporter)


def warn_of_versions() -> None:
    """Warn of each library whose version padd was not tested with."""
    if is_main_process():
        for text in unknown_versions():
            print_warning(text)


def command_line() -> str:
    """Return the command as typed, for the manifest."""
    return shlex.join(["padd", *sys.argv[1:]])


def _raw_settings(command: StageCommand, flags: Mapping[str, Any], common: CommonFlags) -> RawSettings:
    section = common.section or command.name
    if section not in command.sections:
        raise UsageError(
            f"--section is '{section}', but `padd {command.name}` reads {' or '.join(command.sections)}; "
            "name one that it reads."
        )
    config = load_config(common.config) if common.config is not None else None
    if common.without is not None:
        without = parse_without(common.without, "--without")
        check_owner(without, section)
    else:
        without = without_of(config) if config is not None else ()
    return RawSettings(
        flags=flags,
        environ=os.environ,
        config=config,
        section=section,
        preset=common.preset,
        presets_allowed=command.method_presets,
        without=without,
    )


def _out(common: CommonFlags, resolved: Resolved[Any, Any]) -> Path | None:
    if common.out is not None:
        return Path(common.out)
    named = os.environ.get("PADD_OUT")
    return Path(named) if named else resolved.out
