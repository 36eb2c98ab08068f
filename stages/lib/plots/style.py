"""The style that all figures share."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLUMN_INCHES = (
    4.2  # one column of a two-column page, a little over, so that 7 pt stays legible when set to 3.4
)
DPI = 200
INK = "#1b1b1c"  # of text and axes; nothing else has this colour, so that a page can put its own in its place
STYLE: dict[Any, Any] = {
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "font.size": 8.2,
    "axes.titlesize": 8.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 7.8,
    "lines.linewidth": 1.2,
    "text.parse_math": False,  # names of methods and benchmarks may hold dollar signs
}
CHARACTER_INCHES, HANDLE_INCHES = 0.065, 0.5  # measured: of a legend's text, and of a line before it
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
COLOURS = OKABE_ITO[:-1]  # of methods: black would hide intervals and axes
LINE_STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))  # colour is never alone
MARKERS = "os^Dv<>P"
GREY = "#d0d0d0"


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG; the same figure gives the same bytes (no software version or date inside)."""
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    figure.set_layout_engine(
        "none"
    )  # it is laid out now; doing it again for another format costs as much as drawing


def legend_columns(names: Iterable[str], width: float = COLUMN_INCHES) -> int:
    """Return the number of columns, at most four, of a legend above a figure of `width` inches.

    The longest name decides.
    """
    shown = list(names)
    entry = HANDLE_INCHES + CHARACTER_INCHES * max(map(len, shown), default=0)
    return max(1, min(4, len(shown), int(width / entry)))


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of that many inches, drawn by Agg."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
