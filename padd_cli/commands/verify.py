"""`padd verify`."""

from pathlib import Path
from typing import Annotated

import typer

from padd_artifacts.errors import PaddError, UsageError
from padd_cli.commands.comparison import check_parents, compare
from padd_cli.console.streams import say_json, say_table
from padd_cli.flags import flags as flags_of
from padd_cli.stage_command import help_end

EPILOG = help_end(
    "an artifact, the parents that its manifest names by path, and another artifact if given.",
    "nothing; the exit code is 1 when something does not match.",
    "padd verify runs/toy/train --against runs/other/train --tolerance 0.02",
)
app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command("verify", epilog=EPILOG)
def verify(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder of an artifact.")],
    against: Annotated[
        Path | None,
        typer.Option("--against", metavar="OTHER", help="An artifact of the same kind.", show_default=False),
    ] = None,
    tolerance: Annotated[
        str | None,
        typer.Option(
            "--tolerance",
            metavar="NUMBER",
            help="Compare the numbers of the summaries within this, not the digests.",
        ),
    ] = None,
    json_: flags_of.JSON = False,
) -> None:
    """Check an artifact's hashes and its parents, or compare it with another one: digests, or metrics."""
    from padd_artifacts.artifact import open_artifact

    bound = _tolerance(tolerance, against)
    artifact = open_artifact(path)
    parents = check_parents(artifact)
    result = {"path": str(path), "digest": artifact.manifest.digest, "files": len(artifact.manifest.files)}
    differences: list[str] = []
    if against is not None:
        other = open_artifact(against, artifact.manifest.kind)
        differences = compare(artifact.manifest, other.manifest, bound)
        result |= {"against": str(against), "differences": differences}
    result |= {"parents": {check.role: check.state for check in parents}}
    if json_:
        say_json(result | {"ok": not differences})
    else:
        say_table(
            "verified", ("", ""), [(name, value) for name, value in result.items() if name != "parents"]
        )
        say_table("parents", ("input", "state"), [(check.role, check.state) for check in parents])
    if differences:
        raise PaddError(f"{path} and {against} differ: {'; '.join(differences)}.")


def _tolerance(text: str | None, against: Path | None) -> float | None:
    if text is None:
        return None
    if against is None:
        raise UsageError("--tolerance compares with another artifact and there is none; add --against OTHER.")
    try:
        bound = float(text)
    except ValueError:
        bound = -1.0
    if not bound >= 0:
        raise UsageError(f"--tolerance is '{text}', but it must be a number of at least 0.")
    return bound
