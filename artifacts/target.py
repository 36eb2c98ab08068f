"""Checks of ``--out`` before a run: it may be absent, an empty folder, or an artifact that --force may replace."""

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from padd_artifacts.errors import PaddError, UsageError
from padd_artifacts.manifest import MANIFEST_NAME, Manifest, read_manifest

NOT_REPLACED = "so it is not replaced; move it away or name another --out."


def real_path(out: Path) -> Path:
    """Resolve the links of ``out``'s parents; the result does not depend on the current folder.

    Raises:
        UsageError: it ends in no name of its own (``.``, ``..``, ``/``), or in one that is not UTF-8.
    """
    if out.name in ("", ".."):
        raise UsageError(
            f"--out is '{out}', which names no folder of its own, so a result cannot take its place; "
            f"name one in it, such as {out / 'result'}."
        )
    try:
        str(out).encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"--out is {str(out)!a}, which is not UTF-8, so no manifest could name it; name another."
        ) from error
    return Path(os.path.realpath(out.parent)) / out.name


def check_surroundings(out: Path) -> None:
    """Check that a folder can be made at ``out``.

    Raises:
        PaddError: a parent is a file or a link to nothing, or padd may not write in it.
    """
    parent = out.absolute().parent
    while not os.path.lexists(parent):
        parent = parent.parent
    if not parent.is_dir():
        raise PaddError(f"{parent} is not a folder, so {out} cannot be made in it; name another --out.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PaddError(
            f"padd may not write in {parent}, so {out} cannot be made there; change that or name another --out."
        )


def check_target(
    out: Path, place: Path, *, kind: str | None, force: bool, inputs: Iterable[Path | str]
) -> None:
    """Refuse to write a result over something that must not be replaced.

    Args:
        out: as the user wrote it.
        place: `real_path` of it.
        kind: of the result; None where it is not known yet.
        force: an artifact of that kind may be replaced, if it holds nothing but what padd wrote.
        inputs: what the run reads; none may be ``out`` or lie in it.

    Raises:
        PaddError: why not.
        OSError: it cannot be looked at.
    """
    if not _folder_exists(out, place):
        return
    _check_inputs(out, place, inputs)
    if not os.listdir(place):
        return
    if not force:
        raise PaddError(
            f"{out} exists and is not overwritten; name another --out, or --force to replace an artifact of the "
            "same kind."
        )
    manifest = existing_manifest(out, kind)
    assert manifest is not None  # the folder is not empty
    if (foreign := _foreign(place, manifest)) is not None:
        raise PaddError(
            f"{out} holds '{foreign}', which padd did not write there, so it is not replaced; move that away or "
            "name another --out."
        )
    if not os.access(place, os.W_OK | os.X_OK):
        raise PaddError(f"padd may not write in {out}, {NOT_REPLACED}")


def existing_manifest(out: Path, kind: str | None = None) -> Manifest | None:
    """Return the manifest of the artifact at ``out``; None if there is nothing, or an empty folder.

    Raises:
        PaddError: something that padd did not write, an artifact of another kind, or one that this padd cannot read.
    """
    if not _folder_exists(out, out) or not os.listdir(out):
        return None
    if not (out / MANIFEST_NAME).is_file():
        raise PaddError(f"{out} exists and is not a padd artifact, {NOT_REPLACED}")
    try:
        manifest = read_manifest(out)
    except PaddError as error:
        raise PaddError(
            f"{out} exists and its {MANIFEST_NAME} is none that this padd can read (`padd inspect {out}` says why), "
            f"{NOT_REPLACED}"
        ) from error
    if kind is not None and manifest.kind != kind:
        raise PaddError(
            f"{out} is an artifact of kind '{manifest.kind}' where this run writes one of kind '{kind}', {NOT_REPLACED}"
        )
    return manifest


def _folder_exists(out: Path, place: Path) -> bool:
    """Return whether a folder is there; PaddError if something else is."""
    try:
        place.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    if place.is_symlink():
        raise PaddError(f"{out} is a link, {NOT_REPLACED}")
    if not place.is_dir():
        raise PaddError(f"{out} is a file, {NOT_REPLACED}")
    return True


def _check_inputs(out: Path, place: Path, inputs: Iterable[Path | str]) -> None:
    for path in inputs:
        if _holds(place, path):
            raise PaddError(
                f"{out} is or holds {path}, which this run reads, so it is not replaced; name another --out."
            )
    if _holds(place, Path.cwd()):
        raise PaddError(
            f"{out} is or holds the current folder, so it is not replaced; start from another one."
        )


def _holds(folder: Path, path: Path | str) -> bool:
    """Return whether ``path`` is the folder or lies in it, links followed."""
    real = Path(os.path.realpath(os.path.expanduser(path)))
    return os.path.exists(real) and any(os.path.samefile(each, folder) for each in (real, *real.parents))


def _foreign(folder: Path, manifest: Manifest) -> str | None:
    """Return the first file or folder that the manifest does not list."""
    files = {MANIFEST_NAME, *manifest.files}
    folders = {str(parent) for name in files for parent in PurePosixPath(name).parents}
    for root, inner, names in os.walk(folder, onerror=_raise):
        for known, found in ((files, names), (folders, inner)):
            for name in sorted(found):
                relative = (Path(root) / name).relative_to(folder).as_posix()
                if relative not in known:
                    return relative
    return None


def _raise(error: OSError) -> None:
    raise error
