"""A table of titles, columns and cells, for the console, Markdown and the page."""

from dataclasses import dataclass
from typing import Any

MISSING = "–"


@dataclass(frozen=True)
class Cell:
    """``value`` is the number, ``interval`` its 95 % interval or empty; the best of a column stand out.

    ``order`` is what a cell sorts by where its text does not begin with that number, as of times.
    """

    value: str
    interval: str = ""
    best: bool = False
    order: float | None = None


@dataclass(frozen=True)
class Table:
    """Rows of cells under a title."""

    title: str
    columns: list[str]
    rows: list[list[Cell]]


def duration(seconds: float) -> str:
    """As people say it: 48 s, 4 min 2 s, 3 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.3g} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def number(value: float, form: str) -> str:
    """A number in a table; ``%`` is a share written in percent without the sign."""
    if form == "%":
        return f"{100 * value:.1f}"
    return format(int(value) if form == "d" else value, form)


def cell(value: Any, form: str) -> Cell:
    """A number as a cell; what is not known is a dash."""
    return Cell(MISSING if value is None else number(value, form))
