"""Training curves from a student's ``metrics.jsonl``: whatever of the known metrics is there is drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from padd_artifacts.artifact import open_artifact
from padd_artifacts.manifest import MANIFEST_NAME
from padd_stages.report.figures import COLUMN_INCHES, OKABE_ITO, STYLE, new_figure

METRICS_FILE = "metrics.jsonl"
STEP_KEY = "step"
MAX_LINES = len(OKABE_ITO)
SMOOTHED_FROM = 20  # steps; below that a running mean says less than the points
SMOOTHING_SHARE = 0.1  # of the run, the window of the running mean
TEMPERATURE_KEYS = (
    "temperature/min",
    "temperature/p25",
    "temperature/p50",
    "temperature/p75",
    "temperature/max",
)


@dataclass(frozen=True)
class Curve:
    """A panel: its title and the metrics that belong in it, as names or patterns, in drawing order."""

    title: str
    patterns: tuple[str, ...]


CURVES = (
    Curve("reward", ("reward", "accuracy", "held_out/*accuracy*")),
    Curve("loss", ("loss", "loss/*")),
    Curve("distillation KL", ("kd/kl",)),
    Curve("policy KL", ("policy_kl",)),
    Curve("router drift", ("router_shift", "drift/gamma_*mean")),
    Curve("drift weight, A < 0", ("drift/weight*_mean", "drift/weight*_p05", "drift/weight*_p50")),
    Curve(
        "clipped, suppressed share",
        ("clip_ratio/low_mean", "clip_ratio/high_mean", "drift/suppressed_fraction"),
    ),
    Curve("distillation temperature", TEMPERATURE_KEYS),
    Curve("MaxVio", ("max_vio", "*/max_vio*")),
    Curve("response length", ("completions/mean_length",)),
    Curve("entropy", ("entropy",)),
)


def training_figure(student: str) -> Figure | None:
    """The curves of a student artifact; None for a plain model, or one that kept no known metric."""
    if not (Path(student) / MANIFEST_NAME).is_file():
        return None
    artifact = open_artifact(student, check=False)
    if METRICS_FILE not in artifact.manifest.files:
        return None
    return training_curves(artifact.jsonl(METRICS_FILE))


def training_curves(rows: Sequence[dict[str, Any]]) -> Figure | None:
    """Small panels of the metrics that are present, against the step.

    Args:
        rows: one object a step; numbers under the names of :data:`CURVES`, ``step`` if there is one.

    Returns:
        The figure, or None when no row holds a known metric.
    """
    names = sorted({name for row in rows for name, value in row.items() if _is_number(value)})
    panels = [(curve, present) for curve in CURVES if (present := _present(curve, names))]
    if not panels:
        return None
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(COLUMN_INCHES * (1.25 if columns == 2 else 1.0), 0.25 + 1.3 * lines)
        axes = figure.subplots(lines, columns, sharex=True, squeeze=False).ravel()
        for (curve, present), axis in zip(panels, axes):
            axis.set_title(curve.title, loc="left")
            if present[0] in TEMPERATURE_KEYS:
                _draw_bands(axis, rows, present)
            else:
                _draw_lines(axis, rows, present)
            axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axis.ticklabel_format(axis="y", useOffset=False)
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        for axis in axes[max(0, len(panels) - columns) : len(panels)]:
            axis.set_xlabel("step")
            axis.tick_params(labelbottom=True)
    return figure


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _present(curve: Curve, names: Sequence[str]) -> list[str]:
    found = [name for pattern in curve.patterns for name in names if fnmatchcase(name, pattern)]
    return list(dict.fromkeys(found))[:MAX_LINES]


def _series(rows: Sequence[dict[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    points = [(row.get(STEP_KEY, i), row[name]) for i, row in enumerate(rows) if _is_number(row.get(name))]
    steps, values = zip(*points, strict=True)
    return np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64)


def _draw_lines(axis: Axes, rows: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    for colour, name in zip(OKABE_ITO, names):
        steps, values = _series(rows, name)
        if len(steps) < SMOOTHED_FROM or values.min() == values.max():
            axis.plot(steps, values, color=colour, label=name, marker="o", markersize=2)
            continue
        axis.plot(steps, values, color=colour, linewidth=0.6, alpha=0.35)
        axis.plot(steps, running_mean(values, round(SMOOTHING_SHARE * len(values))), color=colour, label=name)
    if len(names) > 1:
        axis.legend(fontsize=5.5, labelspacing=0.2, borderaxespad=0.1)


def _draw_bands(axis: Axes, rows: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    """Median as a line, quartiles and extremes as bands, as far as they are there."""
    for low, high, alpha in ((0, 4, 0.15), (1, 3, 0.3)):
        below, above = TEMPERATURE_KEYS[low], TEMPERATURE_KEYS[high]
        if below in names and above in names:
            steps, lower = _series(rows, below)
            upper = _series(rows, above)[1]
            if len(lower) == len(upper):
                axis.fill_between(steps, lower, upper, color=OKABE_ITO[0], alpha=alpha, linewidth=0)
    middle = TEMPERATURE_KEYS[2]
    if middle in names:
        axis.plot(*_series(rows, middle), color=OKABE_ITO[0])


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over a centred window of (n,) values, cut at the ends; window 1 is the values themselves."""
    half = max(0, window // 2)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    first = np.maximum(np.arange(len(values)) - half, 0)
    last = np.minimum(np.arange(len(values)) + half + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)
