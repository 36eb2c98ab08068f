"""A comparison of methods as a chart: one panel of bars a column, the same colour for the same method."""

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from padd_stages.report.figures import COLUMN_INCHES, NOTHING, OKABE_ITO, STYLE, new_figure
from padd_stages.report.methods import Comparison, Row

PANELS_ACROSS = 2
ROOM_FOR_VALUES = 1.22  # chosen: of the longest bar, so that the number behind it stays inside the panel


def method_bars(comparison: Comparison) -> Figure:
    """Accuracy of every method with its interval; published numbers are hatched and have none."""
    columns = comparison.columns
    across = min(PANELS_ACROSS, len(columns))
    down = -(-len(columns) // across)
    panel = 0.35 + 0.19 * len(comparison.rows)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(COLUMN_INCHES * (1.25 if across > 1 else 1.0), 0.35 + panel * down)
        axes = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
        for axis, column in zip(axes, columns):
            _draw(axis, comparison.rows, column)
            axis.set_title(comparison.head(column), loc="left")
        for axis in axes[len(columns) :]:
            axis.set_visible(False)
        axes[0].set_yticks(range(len(comparison.rows)), [row.label for row in comparison.rows])
        axes[0].set_ylim(len(comparison.rows) - 0.5, -0.5)
        figure.supxlabel("accuracy, % (95 % interval over seeds and problems)", fontsize=7.5)
    return figure


def _draw(axis: Axes, rows: list[Row], column: str) -> None:
    longest = 0.0
    for place, row in enumerate(rows):
        estimate = row.accuracy.get(column)
        if estimate is None:
            axis.annotate("–", (0, place), xytext=(3, 0), textcoords="offset points", va="center")
            continue
        value = end = 100 * estimate.value
        colour = NOTHING if row.published else OKABE_ITO[place % len(OKABE_ITO)]
        axis.barh(
            place, value, color=colour, height=0.66, hatch="////" if row.published else None, edgecolor="w"
        )
        if estimate.low is not None and estimate.high is not None:
            low, end = 100 * estimate.low, 100 * estimate.high
            errors = np.array([[max(value - low, 0.0)], [max(end - value, 0.0)]])
            axis.errorbar(value, place, xerr=errors, fmt="none", ecolor="0.15", capsize=2, elinewidth=0.9)
        axis.annotate(f"{value:.1f}", (end, place), xytext=(3, 0), textcoords="offset points", va="center")
        longest = max(longest, end)
    axis.set_xlim(0.0, ROOM_FOR_VALUES * max(longest, 1.0))
    axis.tick_params(axis="y", length=0)
