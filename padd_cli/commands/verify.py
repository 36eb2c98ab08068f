"""`padd verify`."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from padd_artifacts.artifact import Artifact
from padd_artifacts.errors import PaddError, UsageError
from padd_artifacts.manifest import MANIFEST_NAME, Manifest, Parent, read_manifest, sha256_file
from padd_cli.console.artifacts import short_digest
from padd_cli.console.streams import print_json, print_table
from padd_cli.flags import flags as flags_of
from padd_cli.stage_command import help_epilog

EPILOG = help_epilog(
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
        print_json(result | {"ok": not differences})
    else:
        print_table(
            "verified", ("", ""), [(name, value) for name, value in result.items() if name != "parents"]
        )
        print_table("parents", ("input", "state"), [(check.role, check.state) for check in parents])
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


State = Literal["matches", "not there", "not checked"]


@dataclass(frozen=True)
class ParentCheck:
    """Result of checking one parent."""

    role: str
    state: State


def check_parents(artifact: Artifact) -> list[ParentCheck]:
    """Compare the parents that still exist at the paths in the manifest with the digests recorded there.

    Raises:
        PaddError: a parent is there and is another one.
    """
    checks = []
    for role, parent in artifact.manifest.parents.items():
        now = current_digest(parent)
        if now is not None and now != parent.digest:
            raise PaddError(
                f"{artifact.path} was made from {role} {parent.path} with digest {short_digest(parent.digest)}, which "
                f"has digest {short_digest(now)} now, so the two do not belong together; make {artifact.path} again."
            )
        state: State = "matches" if now is not None else _absent(parent)
        checks.append(ParentCheck(role, state))
    return checks


def current_digest(parent: Parent) -> str | None:
    """Return the current digest of the file or folder at a parent's path; None if nothing local is there."""
    path = Path(parent.path)
    if not parent.path or not path.exists():
        return None
    if path.is_dir() and (path / MANIFEST_NAME).is_file():
        return read_manifest(path).digest
    if path.is_file():  # of a benchmark the digest is of what was read of the file, not of its bytes
        return sha256_file(path) if parent.kind == "file" else None
    if parent.kind == "model" and path.is_dir():
        from padd_stages.lib.models.loading import model_parent

        return model_parent(parent.path).digest
    return None


def _absent(parent: Parent) -> State:
    return "not checked" if parent.path and Path(parent.path).exists() else "not there"


def compare(first: Manifest, other: Manifest, tolerance: float | None) -> list[str]:
    """Return the differences as sentences; none means the same (within the tolerance, if one is given)."""
    if tolerance is None:
        if first.digest == other.digest:
            return []
        return [
            f"digest {short_digest(first.digest)} against {short_digest(other.digest)}",
            *_why(first, other),
        ]
    a, b = dict(numbers(first.summary)), dict(numbers(other.summary))
    differences = [f"{name} is in one summary only" for name in sorted(a.keys() ^ b.keys())]
    for name in sorted(a.keys() & b.keys()):
        if not (a[name] == b[name] or math.isclose(a[name], b[name], rel_tol=0.0, abs_tol=tolerance)):
            differences.append(
                f"{name} is {a[name]:.6g} against {b[name]:.6g} (more than {tolerance:g} apart)"
            )
    return differences


def numbers(value: Any, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Iterate over the numbers of a nested summary with their dotted names."""
    if isinstance(value, int | float):
        yield prefix, float(value)
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from numbers(part, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from numbers(part, f"{prefix}[{index}]")


def _why(first: Manifest, other: Manifest) -> list[str]:
    names = sorted({*first.options, *other.options})
    options = [name for name in names if first.options.get(name) != other.options.get(name)]
    reasons = [f"options differ: {', '.join(options)}"] if options else []
    if first.seed != other.seed:
        reasons.append(f"seed {first.seed} against {other.seed}")
    roles = sorted({*first.parents, *other.parents})
    digests = [(first.parents.get(role), other.parents.get(role)) for role in roles]
    inputs = [
        role for role, (a, b) in zip(roles, digests, strict=True) if not a or not b or a.digest != b.digest
    ]
    if inputs:
        reasons.append(f"inputs differ: {', '.join(inputs)}")
    changed = [
        name
        for name in sorted({*first.files, *other.files})
        if not _volatile(first, name) and _hash(first, name) != _hash(other, name)
    ]
    if changed:
        reasons.append(f"files differ: {', '.join(changed[:6])}" + (", ..." if len(changed) > 6 else ""))
    return reasons


def _hash(first: Manifest, name: str) -> str | None:
    entry = first.files.get(name)
    return entry.sha256 if entry is not None else None


def _volatile(first: Manifest, name: str) -> bool:
    entry = first.files.get(name)
    return entry is not None and entry.volatile
