"""Disk space, and other ways in which the system refuses a file, as one sentence each."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from padd_artifacts.errors import PaddError

FULL = {errno.ENOSPC, errno.EDQUOT}
# safetensors and torch give no error number, only these words
FULL_WORDS = ("No space left on device", "Disk quota exceeded", "os error 28)", "os error 122)")
# what a user's path can cause; anything else is a mistake of this package
REFUSED = {
    errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EROFS, errno.ELOOP,
    errno.EEXIST, errno.ENOTEMPTY, errno.EXDEV,
}  # fmt: skip
UNITS = ("bytes", "kB", "MB", "GB", "TB")


class NoSpace(PaddError):
    """Error of a write that does not fit on the disk; ``clause`` describes it without the way out."""

    def __init__(self, clause: str) -> None:
        super().__init__(f"{clause}, so it was not written; make space, or name an --out on another disk.")
        self.clause = clause


@contextmanager
def reserving_space(folder: Path, size: int, what: str) -> Iterator[None]:
    """Check that ``size`` bytes fit into a folder before they are written in the context.

    Raises:
        NoSpace: the disk has less free, or ran full all the same.
    """
    free = shutil.disk_usage(folder).free
    if size > free:
        raise NoSpace(f"{what} needs {size_text(size)} and {size_text(free)} are free on the disk")
    try:
        yield
    except Exception as error:
        if full_clause(error) is None:
            raise
        raise NoSpace(
            f"{what} needs {size_text(size)} and the disk ran full while it was being written "
            f"({size_text(shutil.disk_usage(folder).free)} are free)"
        ) from error


def size_text(size: float) -> str:
    """Format a number of bytes: ``1.5 GB``."""
    unit = 0
    while size >= 999.5 and unit < len(UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.0f} {UNITS[unit]}" if unit == 0 else f"{size:.3g} {UNITS[unit]}"


def full_clause(error: BaseException, folder: Path | None = None) -> str | None:
    """Describe which file was being written when the disk filled up, and the free space; None for any other error.

    Args:
        error: looked through with all that it came from.
        folder: where the run was writing.
    """
    for each in _chain(error):
        if isinstance(each, NoSpace):
            return each.clause
        if _is_full(each):
            named = _file_of(each)
            return _full_folder(folder) if named is None and folder is not None else _full_file(named)
    return None


def _is_full(error: BaseException) -> bool:
    numbered = isinstance(error, OSError) and error.errno in FULL
    return numbered or any(words in str(error) for words in FULL_WORDS)


def _file_of(error: BaseException) -> str | None:
    """Return the file that an OSError names."""
    name = error.filename if isinstance(error, OSError) else None
    return os.fsdecode(name) if isinstance(name, str | bytes) else None


def _full_folder(folder: Path) -> str:
    """Describe a full disk by the file last changed, which is the one that was being written."""
    files = list(_files(folder))
    newest = max(((stat.st_mtime_ns, path) for stat, path in files), default=(0, None))[1]
    what = f" while {newest.relative_to(folder)} was being written" if newest is not None else ""
    written, free = sum(stat.st_size for stat, _ in files), shutil.disk_usage(folder).free
    return (
        f"the disk ran full{what} ({size_text(free)} are free, and the run takes {size_text(written)} so far)"
    )


def _files(folder: Path) -> Iterator[tuple[os.stat_result, Path]]:
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # other processes of the run may still write
            if path.is_file():
                yield path.stat(), path


def _full_file(name: str | None) -> str:
    if name is None:
        return "a disk that padd writes to ran full"
    place = Path(name).absolute()
    free = shutil.disk_usage(next(p for p in place.parents if p.exists())).free
    return f"the disk ran full while {name} was being written ({size_text(free)} are free)"


def refused_clause(error: BaseException) -> str | None:
    """Describe which file the system refused; None if it was not for a reason that a path can have."""
    if not isinstance(error, OSError) or error.errno not in REFUSED or (name := _file_of(error)) is None:
        return None
    return f"{name} cannot be used ({error.strerror})"


def os_sentence(error: BaseException) -> str | None:
    """Describe a full disk or a refused file in one sentence; None for any other error."""
    if (clause := full_clause(error)) is not None:
        return f"{clause}, so the command stopped; make space and run it again."
    if (clause := refused_clause(error)) is not None:
        return f"{clause}, so the command stopped; check the path and who may read and write it."
    return None


@contextmanager
def explaining_output_errors(out: Path) -> Iterator[None]:
    """Turn any OSError about ``--out`` and its surroundings into one sentence.

    Raises:
        PaddError: an OSError was raised inside.
    """
    try:
        yield
    except OSError as error:
        name = _file_of(error) or str(out)
        if _is_full(error):
            sentence = (
                f"{_full_file(name)}, so the run stopped; make space, or name an --out on another disk."
            )
        else:
            reason = error.strerror or str(error)
            sentence = f"{name} cannot be used ({reason}), so {out} is not written; mend that, or name another --out."
        raise PaddError(sentence) from error


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Iterate over an error and its causes."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or each.__context__
