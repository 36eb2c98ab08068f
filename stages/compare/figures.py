"""Bar chart of a comparison: one panel a column, the same colour for the same method."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from padd_stages.compare.methods import Comparison, Row
from padd_stages.lib.plots.style import COLOURS, COLUMN_INCHES, GREY, INK, STYLE, new_figure

PANELS_ACROSS = 2
HEAD_INCHES, BAR_INCHES = 0.55, 0.19
ROOM_FOR_VALUES = 1.22  # chosen: of the longest bar, so that the number behind it stays inside the panel


def method_bars(comparison: Comparison, colours: Mapping[str, str] | None = None) -> Figure:
    """Draw the accuracy of every method with its interval; published numbers are hatched and have none.

    Args:
        colours: by method; by default each measured row has one of its own.
    """
    measured = [row.name for row in comparison.rows if not row.published]
    colours = colours or {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(measured)}
    across = min(PANELS_ACROSS, len(comparison.columns))
    lines = [comparison.columns[i : i + across] for i in range(0, len(comparison.columns), across)]
    rows = [_rows_of(comparison, line) for line in lines]
    heights = [HEAD_INCHES + BAR_INCHES * len(shown) for shown in rows]
    with matplotlib.rc_context(STYLE):
        figure = new_figure(COLUMN_INCHES * (1.25 if across > 1 else 1.0), 0.2 + sum(heights))
        grid = figure.subplots(len(lines), across, sharey="row", squeeze=False, height_ratios=heights)
        for axes, line, shown in zip(grid, lines, rows, strict=True):
            for axis, column in zip(axes, line):
                _draw(axis, shown, column, colours)
                benchmark = comparison.benchmarks.get(column)
                axis.set_title(column if benchmark is None else f"{column}\n{benchmark}", loc="left")
            for axis in axes[len(line) :]:
                axis.set_visible(False)
            axes[0].set_yticks(range(len(shown)), [row.label for row in shown])
            axes[0].set_ylim(len(shown) - 0.5, -0.5)
        figure.supxlabel("accuracy, % (95 % interval over seeds and problems)", fontsize="medium")
    return figure


def _rows_of(comparison: Comparison, columns: Sequence[str]) -> list[Row]:
    """Return the measured rows, and the published ones that have a number in one of these columns."""
    return [row for row in comparison.rows if not row.published or row.accuracy.keys() & set(columns)]


def _draw(axis: Axes, rows: Sequence[Row], column: str, colours: Mapping[str, str]) -> None:
    longest = 0.0
    for place, row in enumerate(rows):
        estimate = row.accuracy.get(column)
        if estimate is None:
            axis.annotate("–", (0, place), xytext=(3, 0), textcoords="offset points", va="center")
            continue
        value = end = 100 * estimate.value
        colour = GREY if row.published else colours[row.name]
        axis.barh(
            place, value, color=colour, height=0.66, hatch="////" if row.published else None, edgecolor="w"
        )
        if estimate.low is not None and estimate.high is not None:
            low, end = 100 * estimate.low, 100 * estimate.high
            errors = np.array([[max(value - low, 0.0)], [max(end - value, 0.0)]])
            axis.errorbar(value, place, xerr=errors, fmt="none", ecolor=INK, capsize=2, elinewidth=0.9)
        axis.annotate(f"{value:.1f}", (end, place), xytext=(3, 0), textcoords="offset points", va="center")
        longest = max(longest, end)
    axis.set_xlim(0.0, ROOM_FOR_VALUES * max(longest, 1.0))
    axis.tick_params(axis="y", length=0)
