"""Work folder of a run: hidden, beside its output, named at random, locked while the run lives.

``.NAME.padd-1a2b3c4d/`` holds

* ``padd.json``, the marker: whose work this is; without one that names the output a folder is not padd's,
* ``lock``, held by the process that writes, and released by the system when that dies,
* ``artifact/``, what is being written,
* ``resume.json``, once there is something that another run can go on from,

and for a moment at the end ``scratch/``, which only an interrupted run needs, and ``replaced/``, the artifact that
stood at the output. Nothing but folders with a marker is ever moved or removed.
"""

import fcntl
import json
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from padd_artifacts.errors import PaddError

MARKER_NAME, LOCK_NAME, RESUME_NAME = "padd.json", "lock", "resume.json"
ARTIFACT, SCRATCH, REPLACED = "artifact", "scratch", "replaced"
NAME = re.compile(r"\..+\.padd-[0-9a-f]{8}", re.DOTALL)
LONGEST_STEM = 200  # bytes of the output's name in the folder's; names have up to 255
LOCK_TIMEOUT = 1.0  # seconds that another process may take to look whether a run lives


class Marker(BaseModel):
    """Owner of a work folder. ``launcher`` identifies the processes of one launcher by their common address."""

    what: Literal["padd work folder"] = "padd work folder"
    output: str
    kind: str
    key: str
    host: str
    pid: int
    launcher: str


class WorkFolder:
    """One marked folder, from `create` or `find`."""

    def __init__(self, path: Path, marker: Marker) -> None:
        self.path, self.marker = path, marker
        self._lock: int | None = None

    @property
    def artifact(self) -> Path:
        """Where the artifact is written."""
        return self.path / ARTIFACT

    @property
    def resumable(self) -> bool:
        """Whether another run can go on from what is there."""
        return (self.path / RESUME_NAME).is_file() and self.artifact.is_dir()

    @property
    def holds_replaced(self) -> bool:
        """Whether a run was killed, or is, between the two renames of `place`."""
        return (self.path / REPLACED).is_dir() and self.artifact.is_dir()

    @property
    def owner(self) -> str:
        """For messages: which process works or worked there."""
        return f"process {self.marker.pid} on {self.marker.host}"

    def is_live(self) -> bool:
        """Return whether a run holds the lock; read the marker anew if so, since its owner may have changed.

        Where files cannot be locked, whether its process may be there.
        """
        try:
            lock = os.open(self.path / LOCK_NAME, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            live = not _flock(lock, fcntl.LOCK_SH)
        except OSError:
            live = self.marker.host != socket.gethostname() or os.path.exists(f"/proc/{self.marker.pid}")
        finally:
            os.close(lock)
        if live:
            self.marker = read_marker(self.path) or self.marker
        return live

    def is_sibling(self) -> bool:
        """Return whether the first process of this process's own launcher works there, if `is_live`."""
        launcher = _launcher()
        return launcher != "" and os.environ.get("RANK", "0") != "0" and self.marker.launcher == launcher

    def claim(self) -> bool:
        """Take the lock, until `release` or the end of the process; False if another has it or the folder is gone."""
        try:
            lock = os.open(self.path / LOCK_NAME, os.O_RDWR | os.O_CREAT)
        except FileNotFoundError:
            return False
        try:
            free = _flock(lock, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            free = True
        if free and os.fstat(lock).st_nlink:  # else another process has removed the folder meanwhile
            self._lock = lock
            return True
        os.close(lock)
        return False

    def release(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def sign(self) -> None:
        """Write the marker anew, with this process as the owner."""
        self.marker = self.marker.model_copy(update=_signature())
        _write(self.path / MARKER_NAME, self.marker.model_dump_json(indent=2))

    def keep(self) -> None:
        """Mark the run as resumable from here on."""
        _write(self.path / RESUME_NAME, json.dumps({"key": self.marker.key}))

    def set_aside(self, names: Iterable[str]) -> None:
        """Move files that only an interrupted run needs out of the artifact."""
        for name in names:
            if os.path.lexists(self.artifact / name):
                (self.path / SCRATCH).mkdir(exist_ok=True)
                os.replace(self.artifact / name, self.path / SCRATCH / name)

    def bring_back(self) -> None:
        """Undo `set_aside`."""
        aside = self.path / SCRATCH
        for path in list(aside.iterdir()) if aside.is_dir() else []:
            os.replace(path, self.artifact / path.name)

    def place(self, output: Path) -> None:
        """Move the artifact to ``output``; an existing one there is moved into this folder first.

        Raises:
            OSError: something else came to stand there; what stood there before stands there again.
        """
        if output.is_dir() and os.listdir(output):
            os.replace(output, self.path / REPLACED)
        try:
            os.replace(self.artifact, output)
        except BaseException:
            self.put_back(output)
            raise

    def put_back(self, output: Path) -> None:
        """Undo the first half of `place`, after which the run was killed; else do nothing.

        Raises:
            PaddError: something else stands at ``output`` by now.
        """
        replaced = self.path / REPLACED
        if not self.holds_replaced:
            return
        try:
            os.replace(replaced, output)
        except OSError as error:
            raise PaddError(
                f"{replaced} stood at {output} until a run that was to replace it was interrupted, and cannot be put "
                f"back ({error.strerror}), so no run starts; move it, or what stands at {output}, to another place."
            ) from error

    def remove(self) -> None:
        """Remove the folder, the marker last: what a kill or the system leaves, the next run removes."""
        last = (LOCK_NAME, MARKER_NAME)
        with suppress(OSError):
            (self.path / RESUME_NAME).unlink(missing_ok=True)  # first: no run resumes from half of it
            for path in [path for path in self.path.iterdir() if path.name not in last]:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            for name in last:
                (self.path / name).unlink(missing_ok=True)
            self.path.rmdir()
        self.release()


def create(output: Path, kind: str, key: str) -> WorkFolder:
    """Make a work folder beside ``output`` and lock it.

    Raises:
        OSError: it cannot be made; nothing is left of it.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    stem = os.fsencode(output.name)[:LONGEST_STEM].decode(errors="ignore")
    path = output.with_name(f".{stem}.padd-{secrets.token_hex(4)}")
    path.mkdir()
    work = WorkFolder(path, Marker(output=output.name, kind=kind, key=key, **_signature()))
    try:
        work.claim()
        work.sign()
        work.artifact.mkdir()
    except BaseException:
        work.release()
        shutil.rmtree(path, ignore_errors=True)
        raise
    return work


def find(output: Path) -> list[WorkFolder]:
    """Return the work folders of an output, the one last marked at the end."""
    try:
        names = [name for name in os.listdir(output.parent) if NAME.fullmatch(name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    marked = [(path, read_marker(path)) for path in (output.with_name(name) for name in names)]
    found = [WorkFolder(path, marker) for path, marker in marked if marker and marker.output == output.name]
    return sorted(found, key=lambda work: (_changed(work.path / MARKER_NAME), work.path.name))


def is_work_folder(path: Path) -> bool:
    """Return whether padd works or worked there."""
    return NAME.fullmatch(path.name) is not None and read_marker(path) is not None


def read_marker(path: Path) -> Marker | None:
    """Return the marker of a folder; None if it has none, or is a link."""
    marker = path / MARKER_NAME
    if path.is_symlink() or marker.is_symlink():
        return None
    try:
        return Marker.model_validate_json(marker.read_bytes())
    except (OSError, ValidationError):
        return None


def _signature() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "launcher": _launcher()}


def _launcher() -> str:
    """Return the address at which the processes of a launcher meet; empty without one."""
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    return f"{address}:{port}" if address and port else ""


def _flock(lock: int, kind: int) -> bool:
    """Lock an open file; False if another process keeps it. OSError where files cannot be locked."""
    deadline = time.monotonic() + LOCK_TIMEOUT
    while True:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            pass
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)


def _write(path: Path, text: str) -> None:
    """Write a small file atomically."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:  # a run has ended meanwhile
        return 0
