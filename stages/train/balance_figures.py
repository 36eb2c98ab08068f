"""Figures of balance: load of every layer over training, and the router bias against load and quality."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from padd_stages.lib.plots.style import COLUMN_INCHES, INK, MARKERS, STYLE, legend_columns, new_figure

Floats = NDArray[np.float64]

SEQUENTIAL = "cividis"  # even in lightness, the same to the colour-blind
SHADES = (1.0, 0.45)
MOST_LINES = 8  # layers; more are a heatmap


def load_over_training(
    panels: Mapping[str, tuple[Floats, Floats]], layers: Sequence[int], *, label: str
) -> Figure:
    """Draw a measure of each layer's load against the training step, one panel a method, one scale.

    Args:
        panels: by method, the steps (T,) and the values (T, L).
        layers: (L,) decoder layer numbers.
        label: what the number is.
    """
    top = max(float(np.nanmax(values)) for _, values in panels.values())
    low = min(float(np.nanmin(values)) for _, values in panels.values())
    room = 0.05 * max(top - low, 1e-6)
    columns = len(panels) if len(panels) <= 3 else 2
    lines = -(-len(panels) // columns)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(COLUMN_INCHES, 0.5 + 1.5 * lines)
        grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        image = None
        for axis, (title, (steps, values)) in zip(grid.ravel(), panels.items()):
            axis.set_title(title, loc="left")
            axis.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
            if len(layers) <= MOST_LINES:
                _layer_curves(axis, steps, values, layers)
                axis.set_ylim(low - room, top + room)
            else:
                extent = (steps[0] - 0.5, steps[-1] + 0.5, len(layers) - 0.5, -0.5)
                image = axis.imshow(
                    values.T,
                    aspect="auto",
                    interpolation="nearest",
                    cmap=SEQUENTIAL,
                    vmin=low,
                    vmax=top,
                    extent=extent,
                )
                every = max(1, len(layers) // 8)
                axis.set_yticks(range(0, len(layers), every), [str(layer) for layer in layers[::every]])
        for axis in grid.ravel()[len(panels) :]:
            axis.set_visible(False)
        if image is not None:
            figure.colorbar(image, ax=list(grid.ravel()), aspect=30, pad=0.02).set_label(label)
            figure.supylabel("decoder layer", fontsize="medium")
        else:
            handles, labels = grid[0, 0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside upper center", ncols=legend_columns(labels))
            figure.supylabel(label, fontsize="medium")
        figure.supxlabel("training step", fontsize="medium")
    return figure


def bias_figure(loads: Floats, biases: Floats, qualities: Floats, layers: Sequence[int]) -> Figure:
    """Draw the router bias of every expert against its load and against its quality, one marker a layer.

    Args:
        loads: (L, N) shares f_j of routed slots, shown as N f_j.
        biases: (L, N) b_j, in logits.
        qualities: (L, N) EMA_j of the advantage of the tokens that an expert sees.
        layers: (L,) decoder layer numbers.
    """
    experts = loads.shape[1]
    with matplotlib.rc_context(STYLE):
        figure = new_figure(COLUMN_INCHES, 2.2)
        left, right = figure.subplots(1, 2, sharey=True)
        _scatter(left, experts * loads, biases, layers)
        _scatter(right, qualities, biases, layers)
        left.axvline(1.0, color=INK, linewidth=0.4, alpha=0.5)
        right.axvline(0.0, color=INK, linewidth=0.4, alpha=0.5)
        left.set(xlabel="load, N f", ylabel="router bias b")
        right.set(xlabel="quality, EMA of A")
        if len(layers) <= MOST_LINES:
            handles, labels = left.get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside upper center", ncols=legend_columns(labels))
    return figure


def correlation(a: Floats, b: Floats) -> float | None:
    """Compute the mean over layers of Pearson's correlation over experts of (L, N) and (L, N); None if none varies."""
    found = [
        float(np.corrcoef(x, y)[0, 1]) for x, y in zip(a, b, strict=True) if np.ptp(x) > 0 and np.ptp(y) > 0
    ]
    return float(np.mean(found)) if found else None


def _layer_curves(axis: Axes, steps: Floats, values: Floats, layers: Sequence[int]) -> None:
    every = max(1, len(steps) // 6)
    for shade, marker, series, layer in zip(_shades(len(layers)), MARKERS, values.T, layers):
        axis.plot(
            steps,
            series,
            color=INK,
            alpha=shade,
            marker=marker,
            markersize=2.5,
            markevery=every,
            label=f"layer {layer}",
        )


def _scatter(axis: Axes, x: Floats, y: Floats, layers: Sequence[int]) -> None:
    few = len(layers) <= MOST_LINES
    markers, shades = (MARKERS, _shades(len(layers))) if few else ("o" * len(layers), [0.4] * len(layers))
    size = 14 if x.size <= 256 else 3
    axis.axhline(0.0, color=INK, linewidth=0.4, alpha=0.5)
    for shade, marker, xs, ys, layer in zip(shades, markers, x, y, layers):
        axis.scatter(
            xs, ys, s=size, color=INK, marker=marker, linewidths=0, alpha=shade, label=f"layer {layer}"
        )
    axis.xaxis.set_major_locator(MaxNLocator(4))


def _shades(count: int) -> list[float]:
    """Return the opacity of each layer's ink; all stand out from light and dark grounds alike."""
    return np.linspace(*SHADES, count).tolist()
