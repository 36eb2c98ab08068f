"""Access to typer's internals: the click classes under its apps, for commands that are imported only when called."""

import sys

import typer

from padd_stages.lib.compat.probes import Library, Probe, failure_sentence

NAMES = "`TyperGroup.resolve_command`, `TyperGroup.add_command`, `get_command`, an error's `format_message`"
PURPOSE = "find its commands"

try:
    from typer.core import TyperGroup
    from typer.main import get_command
except ImportError as error:  # without these there is no command line that could say it
    sys.exit(f"error: {failure_sentence('typer', NAMES, PURPOSE, error)}")


def message_of(error: Exception) -> str | None:
    """Return typer's message for one of its own errors (an unknown flag, a missing argument), else None."""
    format_message = getattr(error, "format_message", None)
    return None if format_message is None else format_message()


class _LazyGroup(TyperGroup):
    """Command group that adds its only command when that is called."""

    def resolve_command(self, ctx: typer.Context, args: list[str]):  # type: ignore[no-untyped-def]
        app = typer.Typer()
        app.command()(lambda: None)
        self.add_command(get_command(app), "late")
        return super().resolve_command(ctx, args)


def _check() -> None:
    app = typer.Typer(cls=_LazyGroup)
    app.callback()(lambda: None)
    try:
        get_command(app).main(args=["late", "--no-such-flag"], prog_name="padd", standalone_mode=False)
    except Exception as error:
        if "--no-such-flag" in (message_of(error) or ""):
            return
        raise
    raise RuntimeError("a flag that is unknown is not refused")


LIBRARY = Library("typer", (Probe(NAMES, PURPOSE, _check),))
