"""Generator of docs/CLI.md, the command reference, from --help: ``python -m padd_cli.reference``."""

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from padd_cli.app import COMMANDS, exit_code

WIDTH = 100
DEFAULT_PATH = Path("docs") / "CLI.md"
ANSI = re.compile(r"\x1b\[[0-9;]*m")
SUBCOMMANDS = {"toy": ("unpack", "build")}
HEAD = """# Command reference

Generated from `--help` by `make docs`; a test compares this page with the commands.

An option's value is the flag's, else that of the environment variable (`--learning-rate` is
`PADD_LEARNING_RATE`), else that of the `--config` file's section, else, for `train`, that of the method preset, else
the default. The manifest of every artifact records which it was. Words that every nullable option knows: `none`.
Lists repeat the flag; in the environment commas stand between.

Exit codes: 0 done; 1 refused or failed for a stated reason; 2 usage or configuration; 130 interrupted.
"""


def reference() -> str:
    """Return the page, independent of the terminal."""
    parts = [HEAD, _section([])]
    for name in COMMANDS:
        parts.append(_section([name]))
        parts += [_section([name, inner]) for inner in SUBCOMMANDS.get(name, ())]
    return "\n".join(parts)


def help_text(words: list[str]) -> str:
    """Return the output of ``padd WORDS --help`` at a fixed width, without colours."""
    stream = io.StringIO()
    with _fixed_width(), contextlib.redirect_stdout(stream):
        code = exit_code([*words, "--help"])
    if code != 0:
        raise RuntimeError(f"padd {' '.join(words)} --help exits with {code}")
    lines = ANSI.sub("", stream.getvalue()).splitlines()
    return "\n".join(line.rstrip() for line in lines).strip("\n")


def _section(words: list[str]) -> str:
    title = " ".join(["padd", *words])
    return f"{'#' * min(3, 1 + max(1, len(words)))} {title}\n\n```text\n{help_text(words)}\n```\n"


@contextlib.contextmanager
def _fixed_width() -> Iterator[None]:
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(WIDTH)
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


if __name__ == "__main__":
    (Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_PATH).write_text(reference(), encoding="utf-8")
