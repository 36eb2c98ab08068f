"""Router-shift: against the training step (Figure 4), and its distribution over tokens (Figure 5)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator
from numpy.typing import NDArray

from padd_stages.lib.measures.seed_bands import Band, t_half_width
from padd_stages.lib.plots.style import (
    COLOURS,
    COLUMN_INCHES,
    INK,
    LINE_STYLES,
    MARKERS,
    STYLE,
    legend_columns,
    new_figure,
)
from padd_stages.train.curve_figures import draw_band

Floats = NDArray[np.float64]

GRID = 400  # points of an ECDF: chosen, finer than a printed column shows
MARKED = (0.5, 0.95)  # quantiles that are marked
SHOWN_UP_TO = 0.98  # the axis ends where the widest distribution reaches this share: the rest is a thin tail
AXIS_LABEL = "Router-shift, L1 distance a token"


@dataclass(frozen=True)
class Ecdf:
    """Distribution of Router-shift over tokens, mean over seeds with its 95 % interval (NaN for one seed).

    Attributes:
        x, share, low, high: (GRID,); ``share`` of tokens whose shift is at most ``x``.
        marked: by share (0.5, 0.95), the shift that it is reached at.
        seeds: how many.
    """

    x: Floats
    share: Floats
    low: Floats
    high: Floats
    marked: dict[float, float]
    seeds: int


def mixture_share(quantiles: Floats, weights: Floats, x: Floats) -> Floats:
    """Compute the share of all tokens at most ``x``, over several measurements together.

    Args:
        quantiles: (R, Q) each measurement's quantiles, evenly spaced from 0 to 1.
        weights: (R,) its tokens.
        x: (P,) where to evaluate.

    Returns:
        (P,) in [0, 1].
    """
    levels = np.linspace(0.0, 1.0, quantiles.shape[1])
    shares = np.stack([_share_below(row, levels, x) for row in quantiles])  # (R, P)
    return np.average(shares, axis=0, weights=weights)


def ecdfs(measured: Mapping[str, Sequence[tuple[Floats, Floats]]]) -> dict[str, Ecdf]:
    """Compute the distributions of all methods on one axis.

    Args:
        measured: by method, for each seed the quantiles (R, Q) and tokens (R,) of its last measured rollouts.
    """
    together = [tuple(map(np.concatenate, zip(*seeds, strict=True))) for seeds in measured.values()]
    x = np.linspace(0.0, max(_reached(q, w, SHOWN_UP_TO) for q, w in together), GRID)
    found = {}
    for method, seeds in measured.items():
        shares = np.stack([mixture_share(quantiles, weights, x) for quantiles, weights in seeds])
        mean, half = shares.mean(axis=0), t_half_width(shares)
        low, high = np.clip([mean - half, mean + half], 0.0, 1.0)
        marked = {share: float(np.interp(share, mean, x)) for share in MARKED if mean[-1] >= share}
        found[method] = Ecdf(x, mean, low, high, marked, len(seeds))
    return found


def router_shift_figure(bands: Mapping[str, Band | None]) -> Figure:
    """Draw Figure 4: mean Router-shift of a rollout's updates against the step, a line and a band a method.

    Args:
        bands: by method, in the order that gives it its colour; None where it was not measured.
    """
    with matplotlib.rc_context(STYLE):
        figure = new_figure(COLUMN_INCHES, 2.3)
        axis = figure.subplots()
        for place, (method, band) in enumerate(bands.items()):
            if band is not None:
                draw_band(axis, band, place, method)
        axis.set(xlabel="training step", ylabel="Router-shift")
        axis.set_ylim(bottom=0.0)
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if len(bands) > 1:
            figure.legend(loc="outside upper center", ncols=legend_columns(bands))
    return figure


def shift_ecdf_figure(distributions: Mapping[str, Ecdf | None]) -> Figure:
    """Draw Figure 5: share of tokens against Router-shift, each method's median and 95 % quantile marked."""
    with matplotlib.rc_context(STYLE):
        figure = new_figure(COLUMN_INCHES, 2.4)
        axis = figure.subplots()
        for share in MARKED:
            axis.axhline(share, color=INK, linewidth=0.4, alpha=0.4)
        for place, (method, ecdf) in enumerate(distributions.items()):
            if ecdf is None:
                continue
            colour, style = COLOURS[place % len(COLOURS)], LINE_STYLES[place % len(LINE_STYLES)]
            axis.plot(ecdf.x, ecdf.share, color=colour, linestyle=style, label=method)
            if ecdf.seeds > 1:
                axis.fill_between(ecdf.x, ecdf.low, ecdf.high, color=colour, alpha=0.18, linewidth=0)
            for share, reached in ecdf.marked.items():
                axis.plot([reached], [share], color=colour, marker="o", markersize=3)
                axis.plot([reached, reached], [0, share], color=colour, linewidth=0.5, linestyle=":")
        axis.set(
            xlabel=AXIS_LABEL, ylabel="share of tokens", ylim=(0.0, 1.0), yticks=[0, 0.25, 0.5, 0.75, 0.95]
        )
        axis.set_xlim(left=0.0)
        if len(distributions) > 1:
            figure.legend(loc="outside upper center", ncols=legend_columns(distributions))
    return figure


def shift_at_kl_figure(points: Mapping[str, tuple[Floats, Floats]]) -> Figure:
    """Draw Router-shift against policy KL: a smaller learning rate alone lowers both (docs/METHOD.md, section 8).

    Args:
        points: by method, policy KL (P,) in nats and Router-shift (P,); what is not positive is left out.
    """
    with matplotlib.rc_context(STYLE):
        figure = new_figure(COLUMN_INCHES, 2.3)
        axis = figure.subplots()
        for place, (method, (kl, shift)) in enumerate(points.items()):
            shown = (kl > 0) & (shift > 0)
            colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
            axis.scatter(
                kl[shown],
                shift[shown],
                s=9,
                color=colour,
                marker=marker,
                alpha=0.7,
                linewidths=0,
                label=method,
            )
        axis.set(
            xscale="log", yscale="log", xlabel="policy KL of the rollout, nats a token", ylabel="Router-shift"
        )
        for line in (axis.xaxis, axis.yaxis):
            line.set_major_formatter("{x:g}")
            line.set_minor_formatter(_PlainLogFormatter())
        if len(points) > 1:
            figure.legend(loc="outside upper center", ncols=legend_columns(points))
    return figure


class _PlainLogFormatter(LogFormatter):
    """Labels the ticks that LogFormatter would, as plain numbers: padd's figures set no formulas."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def _share_below(quantiles: Floats, levels: Floats, x: Floats) -> Floats:
    """Invert a quantile function; where it is flat (equal values) the share jumps to the upper end."""
    last = np.append(np.diff(quantiles) > 0, True)  # of equal values only the last counts
    return np.interp(x, quantiles[last], levels[last], left=0.0, right=1.0)


def _reached(quantiles: Floats, weights: Floats, share: float) -> float:
    """Return the smallest value that ``share`` of the tokens do not exceed."""
    candidates = np.unique(quantiles)
    shares = mixture_share(quantiles, weights, candidates)
    return float(candidates[np.searchsorted(shares, share)])
