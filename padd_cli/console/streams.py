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


def people() -> Console:
    """The console on stderr: progress, notes, warnings, errors."""
    return Console(stderr=True, soft_wrap=True, highlight=False, markup=False)


def results() -> Console:
    """The console on stdout, for results only."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=PIPE_WIDTH)
    return console


def say_error(sentence: str) -> None:
    """One sentence on stderr."""
    people().print(Text.assemble(("error: ", "bold red"), sentence))


def say_warning(sentence: str, console: Console | None = None) -> None:
    """One sentence on stderr, of a likely mistake."""
    (console or people()).print(Text.assemble(("warning: ", "bold yellow"), sentence))


def say_json(value: Any) -> None:
    """One JSON value on stdout, and nothing else."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def say_line(text: str) -> None:
    """One line on stdout, however long."""
    results().print(Text(text), soft_wrap=True)


def say_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A small table on stdout, its cells values or styled text; an empty one is left out."""
    if not rows:
        return
    from rich.table import Table as RichTable

    table = RichTable(title=Text(title), title_justify="left", title_style="bold", show_header=any(columns))
    for column in columns:
        table.add_column(Text(column), overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(show(cell)) for cell in row))
    results().print(table)


def show_table(table: Table) -> None:
    """A stage's table on stdout: the best of a column in bold, intervals behind numbers, or below where many are."""
    intervals = sum(any(cell.interval for cell in column) for column in zip(*table.rows))
    between = " " if intervals <= INTERVALS_ON_A_LINE else "\n"
    rows = [[styled(cell, between) for cell in row] for row in table.rows]
    say_table(table.title, table.columns, rows)


def styled(cell: Cell, between: str) -> Text:
    """A cell for the console: the number, bold if it is the best, and its interval."""
    value = Text().append(cell.value, style="bold" if cell.best else None)
    return value.append(f"{between}({cell.interval})") if cell.interval else value


def show(value: Any) -> str:
    """A cell of a table: short numbers, nested values as JSON."""
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
    """Whether -vv stands in a command line, known even where parsing it fails."""
    short = sum(word.count("v") for word in argv if re.fullmatch(r"-[qv]+", word))
    return short + list(argv).count("--verbose") >= 2


def set_up_logging(verbose: int) -> None:
    """Let the libraries speak up only as far as the user asked; called before they are imported."""
    level = (logging.ERROR, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(level=level, stream=sys.stderr, format="%(name)s: %(message)s", force=True)
    for noisy in ("matplotlib", "PIL", "urllib3", "filelock", "fsspec", "asyncio"):
        logging.getLogger(noisy).setLevel(max(level, logging.WARNING))
    for variable in ("TRANSFORMERS_VERBOSITY", "HF_HUB_VERBOSITY"):
        os.environ.setdefault(variable, ("error", "warning", "info")[min(verbose, 2)])
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")


@contextlib.contextmanager
def stdout_kept_clean() -> Iterator[None]:
    """Send what libraries print to stderr while a stage works, so that stdout holds the result alone."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
