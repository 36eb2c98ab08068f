"""`padd doctor`."""

import typer

from padd_cli.commands.diagnosis import as_text, diagnose
from padd_cli.console.streams import say_json, set_up_logging
from padd_cli.flags import flags as flags_of
from padd_cli.stage_command import help_end

EPILOG = help_end("the environment.", "nothing; the text is made to be pasted into a report.", "padd doctor")
app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command("doctor", epilog=EPILOG)
def doctor(json_: flags_of.JSON = False) -> None:
    """Check what padd needs here: libraries and their insides, devices, memory, disk, model cache; list model names."""
    set_up_logging(0)
    found = diagnose()
    if json_:
        say_json(found)
    else:
        typer.echo(as_text(found), nl=False)
    if found["problems"]:
        raise typer.Exit(1)
