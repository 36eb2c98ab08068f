"""Training curves: one panel a metric, one line a method, a band where it has several seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from padd_stages.lib.measures.seed_bands import SMOOTHED_FROM, Band, Rows, seed_band
from padd_stages.lib.plots.style import COLOURS, COLUMN_INCHES, LINE_STYLES, STYLE, legend_columns, new_figure

Runs = Mapping[str, Sequence[Rows]]  # by method, the rows of each seed

PANEL_INCHES = (2.5, 1.45)


@dataclass(frozen=True)
class Curve:
    """One panel: its title, its metric, and the metrics of the lower and upper end of the shaded band around it."""

    title: str
    metric: str
    ends: tuple[str, str] | None = None


CURVES = (
    Curve("reward", "reward"),
    Curve("accuracy on training problems", "accuracy"),
    Curve("groups without advantage", "frac_reward_zero_std"),
    Curve("distillation KL, nats", "kd/kl"),
    Curve("temperature, median and quartiles", "temperature/p50", ("temperature/p25", "temperature/p75")),
    Curve("policy KL, nats", "policy_kl"),
    Curve("entropy, nats", "entropy"),
    Curve("clipped at A < 0", "clip_ratio/low_mean"),
    Curve("clipped at A > 0", "clip_ratio/high_mean"),
    Curve("suppressed by drift, A < 0", "drift/suppressed_fraction"),
    Curve("drift weight, A < 0", "drift/weight_mean"),
    Curve("router drift Gamma", "drift/gamma_all_mean"),
    Curve("MaxVio", "load/max_vio"),
    Curve("spread of the router bias", "bias/spread"),
    Curve("response length, tokens", "completions/mean_length"),
)
WARMUP_CURVES = (
    Curve("L_LM, nats", "loss/lm"),
    Curve("L_KD, nats", "loss/kd"),
    Curve("L_init", "loss/init"),
)


def drawable_curves(runs: Runs, curves: Sequence[Curve] = CURVES) -> list[Curve]:
    """Return the panels worth drawing: their numbers exist, vary, and differ from those of every panel before."""
    found: list[Curve] = []
    drawn: list[list[Band]] = []
    for curve in curves:
        bands = [band for rows in runs.values() if (band := seed_band(rows, curve.metric)) is not None]
        changes = any(len(band.steps) == 1 or np.ptp(band.mean) > 0 for band in bands)
        if changes and not any(_same(bands, others) for others in drawn):
            found.append(curve)
            drawn.append(bands)
    return found


def training_curves(runs: Runs, curves: Sequence[Curve] = CURVES) -> Figure | None:
    """Draw all panels on one page, two to a row; None when no run holds a known metric."""
    panels = drawable_curves(runs, curves)
    if not panels:
        return None
    lines = -(-len(panels) // 2)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(1.25 * COLUMN_INCHES, 0.35 + 1.3 * lines)
        axes = figure.subplots(lines, 2, sharex=True, squeeze=False).ravel()
        for curve, axis in zip(panels, axes):
            draw_curve(axis, runs, curve)
            axis.set_title(curve.title, loc="left")
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        for axis in axes[max(0, len(panels) - 2) : len(panels)]:
            axis.set_xlabel("step")
            axis.tick_params(labelbottom=True)
        if len(runs) > 1:
            handles, labels = axes[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside upper center", ncols=legend_columns(labels))
    return figure


def curve_panel(runs: Runs, curve: Curve) -> Figure:
    """Draw one panel alone, without title and legend, for a page that has its own."""
    with matplotlib.rc_context(STYLE):
        figure = new_figure(*PANEL_INCHES)
        axis = figure.subplots()
        draw_curve(axis, runs, curve)
        axis.set_xlabel("step")
    return figure


def draw_curve(axis: Axes, runs: Runs, curve: Curve) -> None:
    """Draw one line a method; its colour and dashes follow from the method's position among all."""
    for place, (method, rows) in enumerate(runs.items()):
        band = seed_band(rows, curve.metric, smooth=True)
        if band is None:
            continue
        draw_band(axis, band, place, method)
        if curve.ends is not None:
            ends = [seed_band(rows, end, smooth=True) for end in curve.ends]
            if ends[0] is not None and ends[1] is not None:
                _shade(axis, ends[0].steps, ends[0].mean, ends[1].mean, place)
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    axis.yaxis.set_major_locator(MaxNLocator(4))
    axis.ticklabel_format(axis="y", useOffset=False)
    lowest = min((float(np.min(np.asarray(line.get_ydata()))) for line in axis.get_lines()), default=-1.0)
    if lowest >= 0.0 > axis.get_ylim()[0]:  # a metric without negative values: below 0 there is only interval
        axis.set_ylim(bottom=0.0 - 0.02 * axis.get_ylim()[1])


def draw_band(axis: Axes, band: Band, place: int, label: str) -> None:
    """Draw a mean and, where there are several seeds, its interval."""
    colour, style = COLOURS[place % len(COLOURS)], LINE_STYLES[place % len(LINE_STYLES)]
    marker = "o" if len(band.steps) < SMOOTHED_FROM else None
    axis.plot(band.steps, band.mean, color=colour, linestyle=style, marker=marker, markersize=2, label=label)
    if band.seeds > 1:
        _shade(axis, band.steps, band.low, band.high, place)


def _shade(axis: Axes, steps: np.ndarray, low: np.ndarray, high: np.ndarray, place: int) -> None:
    axis.fill_between(steps, low, high, color=COLOURS[place % len(COLOURS)], alpha=0.18, linewidth=0)


def _same(bands: Sequence[Band], others: Sequence[Band]) -> bool:
    return len(bands) == len(others) and all(
        np.array_equal(a.mean, b.mean) for a, b in zip(bands, others, strict=True)
    )
