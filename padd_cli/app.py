"""The command line's root: commands are imported when they are called; errors become one sentence and a code."""

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from padd_artifacts.errors import PaddError
from padd_cli.compat import TyperGroup, get_command, message_of
from padd_cli.console.processes import may_print_error
from padd_cli.console.streams import print_error, wants_traceback
from padd_stages.lib.runtime.launcher import process_count

# Command -> (module in padd_cli.commands, the one line that `padd --help` shows).
COMMANDS = {
    "split-data": ("split_data", "Split problems into the four subsets D_A to D_D."),
    "cluster": ("cluster", "Cluster the teacher's neurons; make router rows and targets (Stage I)."),
    "warmup": ("warmup", "Warm the student's experts up on worked solutions (Stage I)."),
    "train": ("train", "Train the student: distillation, PR-GRPO, load balancing (Stages II to IV)."),
    "eval": ("eval_", "Measure a model's accuracy, greedy and sampled, with intervals."),
    "compare": ("compare", "Compare methods over seeds and benchmarks, beside the paper's numbers."),
    "analyze-experts": ("analyze_experts", "Measure routing: load, specialisation, agreement; draw figures."),
    "report": ("report", "Show a run, or several, on one HTML page."),
    "export": ("export", "Write a student as a stock checkpoint, its router bias in ordinary weights."),
    "run": ("run", "Run a preset's stages in order, skipping what is up to date."),
    "plan": ("plan", "Estimate memory, time and disk of a preset's steps on given GPUs."),
    "toy": ("toy", "Unpack or rebuild the toy problems, teacher and student."),
    "inspect": ("inspect_", "Show an artifact's manifest."),
    "verify": ("verify", "Check an artifact's hashes and parents, or compare it with another."),
    "doctor": ("doctor", "Show versions, devices, caches and model names."),
}
INTERRUPTED = 130


class LazyGroup(TyperGroup):
    """Command group that knows every command's one line of help and imports a command only when it is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Replace the placeholder by the real command."""
        if args and args[0] in COMMANDS:
            self.add_command(load_command(args[0]), args[0])
        return super().resolve_command(ctx, args)


def load_command(name: str) -> Any:
    """Import the click command of one name."""
    module = importlib.import_module(f"padd_cli.commands.{COMMANDS[name][0]}")
    command = get_command(module.app)
    command.name = name
    return command


app = typer.Typer(
    cls=LazyGroup,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        typer.echo(f"padd {metadata.version('padd')}")
        raise typer.Exit()


@app.callback(
    invoke_without_command=True,
    epilog="Every option can also be set as PADD_NAME or in a --config file: flag > environment > file > default.",
)
def root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Distil a dense teacher LLM into a mixture-of-experts student."""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help(), nl=False)


def _register(name: str, line: str) -> None:
    @app.command(name, help=line)
    def placeholder() -> None:
        raise AssertionError("replaced by LazyGroup before it is called")


for _name, (_, _line) in COMMANDS.items():
    _register(_name, _line)


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``padd``; exit with 0 (done), 1 (refused or failed), 2 (usage) or 130 (interrupted)."""
    code = exit_code(sys.argv[1:] if argv is None else list(argv))
    if process_count() > 1:
        # the threads of torch's connections may abort an interpreter that ends, after a run that went well
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def exit_code(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code; every error is one sentence on stderr."""
    try:
        code = get_command(app).main(args=list(argv), prog_name="padd", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        code, sentence = _explain(error, traceback_wanted=wants_traceback(argv))
        if may_print_error():
            if wants_traceback(argv):
                traceback.print_exception(error)
            print_error(sentence)
        return code
    if code == INTERRUPTED and may_print_error():
        print_error("interrupted.")
    return code if isinstance(code, int) else 0


def _explain(error: Exception, *, traceback_wanted: bool) -> tuple[int, str]:
    """Return exit code and one sentence."""
    if isinstance(error, PaddError):
        return error.exit_code, str(error)
    if (text := message_of(error)) is not None:
        return 2, f"{text.rstrip('.')}; `padd --help` lists commands, `padd COMMAND --help` options."
    from padd_artifacts.space import os_sentence  # only for an error: --help is to be quick

    if (sentence := os_sentence(error)) is not None:
        return 1, sentence
    reason = str(error).strip().splitlines()
    what = f"{type(error).__name__}: {reason[0]}" if reason else type(error).__name__
    way_out = "" if traceback_wanted else "; run again with -vv for the traceback"
    return 1, f"unexpected {what.rstrip('.')}{way_out}."
