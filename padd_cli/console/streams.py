"""The two streams: people read stderr, programs read stdout."""

import contextlib
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from padd_stages.lib.plots.table import Cell, Table

# Width of tables in a pipe or a file, where rich would cut them at 80 columns.
PIPE_WIDTH = 400
INTERVALS_ON_A_LINE = 3  # chosen: more do not fit a terminal


def stderr_console() -> Console:
    """Return the console on stderr: progress, notes, warnings, errors."""
    return Console(stderr=True, soft_wrap=True, highlight=False, markup=False)


def stdout_console() -> Console:
    """Return the console on stdout, for results only."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=PIPE_WIDTH)
    return console


def print_error(sentence: str) -> None:
    """Print an error, one sentence, on stderr."""
    stderr_console().print(Text.assemble(("error: ", "bold red"), sentence))


def print_warning(sentence: str, console: Console | None = None) -> None:
    """Print a warning of a likely mistake, one sentence, on stderr."""
    (console or stderr_console()).print(Text.assemble(("warning: ", "bold yellow"), sentence))


def print_json(value: Any) -> None:
    """Print one JSON value on stdout, and nothing else."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def print_line(text: str) -> None:
    """Print one line on stdout, however long."""
    stdout_console().print(Text(text), soft_wrap=True)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a small table on stdout, its cells values or styled text; an empty one is left out."""
    if not rows:
        return
    from rich.table import Table as RichTable

    table = RichTable(title=Text(title), title_justify="left", title_style="bold", show_header=any(columns))
    for column in columns:
        table.add_column(Text(column), overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell_text(cell)) for cell in row))
    stdout_console().print(table)


def show_table(table: Table) -> None:
    """Print a stage's table: the best of a column in bold, intervals behind numbers, or below where there are many."""
    intervals = sum(any(cell.interval for cell in column) for column in zip(*table.rows))
    between = " " if intervals <= INTERVALS_ON_A_LINE else "\n"
    rows = [[styled(cell, between) for cell in row] for row in table.rows]
    print_table(table.title, table.columns, rows)


def styled(cell: Cell, between: str) -> Text:
    """Return a cell for the console: the number, bold if it is the best, and its interval."""
    value = Text().append(cell.value, style="bold" if cell.best else None)
    return value.append(f"{between}({cell.interval})") if cell.interval else value


def cell_text(value: Any) -> str:
    """Format a cell of a table: short numbers, nested values as JSON."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict | list | tuple):
        return json.dumps(_rounded(value), ensure_ascii=False, default=str)
    return str(value)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(part) for part in value]
    return value


def wants_traceback(argv: Sequence[str]) -> bool:
    """Return whether a command line contains -vv, even where parsing it fails."""
    short = sum(word.count("v") for word in argv if re.fullmatch(r"-[qv]+", word))
    return short + list(argv).count("--verbose") >= 2


def set_up_logging(verbose: int) -> None:
    """Set the libraries' log level to the verbosity that the user chose; called before they are imported."""
    level = (logging.ERROR, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(level=level, stream=sys.stderr, format="%(name)s: %(message)s", force=True)
    for noisy in ("matplotlib", "PIL", "urllib3", "filelock", "fsspec", "asyncio"):
        logging.getLogger(noisy).setLevel(max(level, logging.WARNING))
    for variable in ("TRANSFORMERS_VERBOSITY", "HF_HUB_VERBOSITY"):
        os.environ.setdefault(variable, ("error", "warning", "info")[min(verbose, 2)])
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")


@contextlib.contextmanager
def divert_stdout() -> Iterator[None]:
    """Send what libraries print to stderr while a stage works, so that stdout holds the result alone."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
