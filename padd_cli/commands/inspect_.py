"""`padd inspect`."""

from pathlib import Path
from typing import Annotated

import typer

from padd_artifacts.artifact import open_artifact
from padd_cli.console.artifacts import show_inspection
from padd_cli.console.streams import print_json
from padd_cli.flags import flags as flags_of
from padd_cli.stage_command import help_epilog

EPILOG = help_epilog(
    "the manifest of an artifact, and the report of clusters (`padd verify` checks the files too).",
    "nothing.",
    "padd inspect runs/toy/train",
)
app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command("inspect", epilog=EPILOG)
def inspect(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder of an artifact.")],
    json_: flags_of.JSON = False,
) -> None:
    """Show what an artifact is: summary, inputs, files, and every option with where its value came from."""
    artifact = open_artifact(path, check=False)
    if json_:
        print_json({"path": str(path), **artifact.manifest.model_dump(mode="json")})
    else:
        show_inspection(artifact)
