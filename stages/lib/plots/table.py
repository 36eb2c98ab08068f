"""A table of titles, columns and cells, for the console, Markdown and the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

MISSING = "–"


@dataclass(frozen=True)
class Cell:
    """``value`` as text, ``interval`` its 95 % interval or empty; the best of a column stand out.

    ``order`` is the sort key where the text does not begin with that number, as for times.
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

    @classmethod
    def of(cls, title: str, rows: Sequence[Mapping[str, Cell]]) -> Self:
        """Arrange rows by column name, in order of first occurrence, without columns that have no value."""
        named = dict.fromkeys(name for row in rows for name in row)
        columns = [name for name in named if any(name in row and row[name].value != MISSING for row in rows)]
        return cls(title, columns, [[row.get(name, Cell(MISSING)) for name in columns] for row in rows])

    def markdown(self) -> str:
        """Render the table under its title; an interval stands behind its number, the best is bold."""
        lines = [self.columns, ["---"] * len(self.columns)]
        lines += [[_markdown_cell(cell) for cell in row] for row in self.rows]
        return f"{self.title}\n\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _markdown_cell(cell: Cell) -> str:
    value = f"**{cell.value}**" if cell.best else cell.value.replace("|", "\\|")
    return f"{value} ({cell.interval})" if cell.interval else value


def duration(seconds: float) -> str:
    """Format a duration: 48 s, 4 min 2 s, 3 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.3g} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def number(value: float, form: str) -> str:
    """Format a number of a table; ``%`` is a share written in percent without the sign."""
    if form == "%":
        return f"{100 * value:.1f}"
    return format(int(value) if form == "d" else value, form)


def cell(value: Any, form: str) -> Cell:
    """Format a number as a cell; a dash for None."""
    return Cell(MISSING if value is None else number(value, form))


def share(value: float | None, interval: Sequence[float] | None = None, note: str = "") -> Cell:
    """Format a share in percent, one decimal, with its interval; ``note`` stands behind the number."""
    if value is None:
        return Cell(MISSING)
    return Cell(
        f"{100 * value:.1f}{note}", "" if interval is None else percent_interval(interval[0], interval[1])
    )


def percent_interval(low: float, high: float, form: str = ".1f") -> str:
    """Format the ends of an interval of shares, in percent."""
    return f"{100 * low:{form}} to {100 * high:{form}}"
