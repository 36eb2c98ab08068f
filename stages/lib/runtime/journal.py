"""A journal on disk of what was costly to compute, so that an interrupted run computes none of it again."""

import json
import os
from pathlib import Path
from typing import Any


class Journal:
    """Append-only file of JSON values, a line each: a value is there as a whole or not at all.

    Attributes:
        values: what an interrupted run has left, and what was added since.
    """

    def __init__(self, path: Path) -> None:
        """Read the file, if it is there; a line that a kill left half written is cut off."""
        self.path = path
        self.values = read_journal(path)
        if path.is_file():
            os.truncate(path, len(_whole_lines(path)))

    def add(self, value: Any) -> None:
        """Append a value, and wait until the disk has it."""
        with self.path.open("ab") as handle:
            handle.write(json.dumps(value).encode() + b"\n")
            handle.flush()
            os.fsync(handle.fileno())
        self.values.append(value)


def read_journal(path: Path) -> list[Any]:
    """Return the whole values of a journal that another process may be writing."""
    return [json.loads(line) for line in _whole_lines(path).splitlines()]


def _whole_lines(path: Path) -> bytes:
    content = path.read_bytes() if path.is_file() else b""
    return content[: content.rfind(b"\n") + 1]
