"""Figures of a routing analysis: pure functions from numbers to matplotlib figures (docs/METHOD.md, section 8).

No pyplot: figures are objects without global state, drawn by Agg. Colours are told apart by the colour-blind
(RdBu, Okabe-Ito) and grey means that there is nothing to show.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from padd_stages.lib.measures.specialisation import relative_activation, relative_load
from padd_stages.lib.plots.style import COLUMN_INCHES, GREY, INK, MARKERS, OKABE_ITO, STYLE, new_figure

Floats = NDArray[np.float64]

SCALE_QUANTILE = 0.98  # chosen: one extreme cell must not wash out all others
SCALE_BOUNDS = (0.25, 3.0)  # in log2: never paint noise of under 19 % in full colour; 8 times is full colour


@dataclass(frozen=True)
class Panel:
    """A heatmap's title and values: (S, N) log2 ratios; NaN is nothing to show, infinities are clipped."""

    title: str
    values: Floats


@dataclass(frozen=True)
class Line:
    """One model's value in every MoE layer (L,), and the upper end of the interval for shuffled labels (L,)."""

    label: str
    values: Floats
    chance: Floats


def diverging_limit(panels: Sequence[ArrayLike]) -> float:
    """Choose one symmetric colour limit for several matrices of log2 ratios."""
    values = np.concatenate([np.abs(np.asarray(panel, dtype=np.float64)).ravel() for panel in panels])
    finite = values[np.isfinite(values)]
    limit = float(np.quantile(finite, SCALE_QUANTILE)) if finite.size else SCALE_BOUNDS[0]
    return float(np.clip(limit, *SCALE_BOUNDS))


def unit_order(values: ArrayLike) -> NDArray[np.intp]:
    """Order the columns of (S, N) by the row in which each is largest, the strongest first; NaN columns last."""
    array = np.asarray(values, dtype=np.float64)
    filled = np.where(np.isnan(array), -np.inf, array)
    rows = np.where(np.isnan(array).all(axis=0), array.shape[0], filled.argmax(axis=0))
    return np.lexsort((-filled.max(axis=0), rows))


def specialisation_heatmaps(
    panels: Sequence[Panel], subdomains: Sequence[str], *, heading: str, order_of: int = 0
) -> Figure:
    """Draw Figure 3: subdomain x unit, one panel above the other, one colour scale, the same rows and columns.

    Args:
        panels: (S, N) each; column j of every panel is the same unit (an expert and the cluster it came from).
        subdomains: the S row labels.
        heading: says which layer is shown.
        order_of: the panel whose preferences order the columns of all.
    """
    order = unit_order(panels[order_of].values)
    limit = diverging_limit([panel.values for panel in panels])
    height = 0.75 + len(panels) * (0.32 + 0.155 * len(subdomains))
    with matplotlib.rc_context(STYLE):
        figure = new_figure(COLUMN_INCHES, height)
        axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        image = None
        for letter, panel, axis in zip("abcdefgh", panels, axes):
            image = axis.imshow(
                np.clip(panel.values[:, order], -limit, limit),
                aspect="auto",
                interpolation="nearest",
                cmap=_map("RdBu_r"),
                vmin=-limit,
                vmax=limit,
            )
            axis.set_title(f"({letter}) {panel.title}", loc="left")
            axis.set_yticks(range(len(subdomains)), subdomains)
            _frame(axis)
        units = len(order)
        if units <= 32:
            axes[-1].set_xticks(range(units), [str(j) for j in order])
        else:
            axes[-1].set_xticks([])
        axes[-1].set_xlabel(f"expert, ordered by preference in ({'abcdefgh'[order_of]})")
        if image is not None:
            bar = figure.colorbar(image, ax=list(axes), shrink=0.8, aspect=30, pad=0.06)
            bar.set_label("log2 of preference")
        figure.suptitle(heading, fontsize=8.5)
    return figure


def load_figure(panels: Sequence[Panel], layers: Sequence[int]) -> Figure:
    """Draw the load of every expert in every MoE layer, sorted by load, with each layer's MaxVio beside it.

    Args:
        panels: values (L, N) shares f_j of routed slots, one panel a model.
        layers: (L,) decoder layer numbers, for the row labels.
    """
    ratios = [np.sort(panel.values.shape[1] * panel.values, axis=1)[:, ::-1] for panel in panels]
    with np.errstate(divide="ignore"):
        logs = [np.log2(ratio) for ratio in ratios]
    limit = diverging_limit(logs)
    top = max(float(ratio.max()) - 1.0 for ratio in ratios)
    body = float(np.clip(0.14 * len(layers), 0.5, 1.7))
    with matplotlib.rc_context(STYLE):
        figure = new_figure(COLUMN_INCHES, 0.6 + len(panels) * (0.4 + body))
        grid = figure.subplots(len(panels), 2, sharex="col", squeeze=False, width_ratios=[4, 1])
        image = None
        for row, panel, ratio, log in zip(grid, panels, ratios, logs, strict=True):
            left, right = row
            clipped = np.where(np.isneginf(log), np.nan, np.clip(log, -limit, limit))
            image = left.imshow(
                clipped,
                aspect="auto",
                interpolation="nearest",
                cmap=_map("RdBu_r"),
                vmin=-limit,
                vmax=limit,
            )
            left.set_title(panel.title, loc="left")
            _layer_ticks(left, layers)
            _frame(left)
            right.barh(range(len(layers)), ratio.max(axis=1) - 1.0, color=OKABE_ITO[0], height=0.7)
            right.set(ylim=(len(layers) - 0.5, -0.5), xlim=(0.0, max(1.08 * top, 1e-3)), yticks=[])
        grid[-1, 0].set_xticks([])
        grid[-1, 0].set_xlabel("experts, the most loaded first (grey: dead)")
        grid[-1, 1].set_xlabel("MaxVio")
        grid[-1, 1].xaxis.set_major_locator(MaxNLocator(3))
        if image is not None:
            bar = figure.colorbar(image, ax=list(grid[:, 0]), location="top", shrink=0.7, aspect=40, pad=0.03)
            bar.set_label("load, log2 of N f (0: an even share)")
    return figure


def layer_lines(lines: Sequence[Line], layers: Sequence[int], *, ylabel: str) -> Figure:
    """Draw a measure per MoE layer for several models; dotted, in the same colour, that of shuffled labels.

    Args:
        layers: (L,) decoder layer numbers.
    """
    with matplotlib.rc_context(STYLE):
        figure = new_figure(COLUMN_INCHES, 2.2)
        axis = figure.subplots()
        for colour, marker, line in zip(OKABE_ITO, MARKERS, lines):
            axis.plot(layers, line.values, color=colour, marker=marker, markersize=3, label=line.label)
            axis.plot(layers, line.chance, color=colour, linestyle=":")
        axis.set(xlabel="decoder layer", ylabel=ylabel)
        axis.set_ylim(bottom=0.0)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.plot([], [], color=INK, linestyle=":", label="problem labels shuffled, 97.5 %")
        figure.legend(loc="outside upper center", ncols=2)
    return figure


def _map(name: str) -> Colormap:
    return matplotlib.colormaps[name].with_extremes(bad=GREY)


def _frame(axis: Axes) -> None:
    axis.spines[:].set_visible(True)
    axis.spines[:].set_linewidth(0.4)
    axis.tick_params(length=0)


def _layer_ticks(axis: Axes, layers: Sequence[int]) -> None:
    step = max(1, -(-len(layers) // 10))
    axis.set_yticks(range(0, len(layers), step), [str(layer) for layer in layers[::step]])
    axis.set_ylabel("layer")


Arrays = Mapping[str, NDArray[Any]]
CLUSTERS = "clusters.activations"
TITLES = {"base": "base student", "stage1": "student after Stage I", "student": "student"}


def expert_figures(report: dict[str, Any], arrays: Arrays) -> dict[str, Figure]:
    """Draw Figure 3, and load and NMI by layer, by name.

    Args:
        report: ``report.json``: the models' numbers by layer.
        arrays: ``ROLE.counts`` (L, N, S) routed slots, and ``clusters.activations`` (L, S, N) where there are clusters.
    """
    models: dict[str, Any] = report["models"]
    titles = model_titles(report)
    layers = decoder_layers(report)
    shares = {role: np.array([layer["share"] for layer in models[role]["layers"]]) for role in models}
    return {
        "specialisation": specialisation_figure(report, arrays),
        "load": load_figure([Panel(titles[role], shares[role]) for role in models], layers),
        "nmi": layer_lines(
            [Line(titles[role], *_nmi(model)) for role, model in models.items()],
            layers,
            ylabel="NMI, expert and subdomain",
        ),
    }


def model_titles(report: dict[str, Any]) -> dict[str, str]:
    """Return the title of each model of a report in figures and tables."""
    last = {"student": "student after all stages"} if "stage1" in report["models"] else {}
    return {role: (TITLES | last)[role] for role in report["models"]}


def decoder_layers(report: dict[str, Any]) -> list[int]:
    """Return the (L,) decoder layer numbers of the MoE layers."""
    return [layer["decoder_layer"] for layer in report["models"]["student"]["layers"]]


def specialisation_panels(report: dict[str, Any], arrays: Arrays, m: int) -> tuple[list[Panel], list[str]]:
    """Return the heatmaps of MoE layer ``m`` and the names of their rows, the subdomains that have text."""
    models, titles = report["models"], model_titles(report)
    tokens = models["student"]["tokens_by_subdomain"]
    names = [name for name in report["subdomains"] if tokens[name] > 0]
    rows = [report["subdomains"].index(name) for name in names]
    panels = []
    if CLUSTERS in arrays:
        panels.append(Panel("teacher clusters", relative_activation(arrays[CLUSTERS][m])[rows]))
    for role in ("stage1" if "stage1" in models else "base", "student"):
        if role in models:
            panels.append(Panel(titles[role], relative_load(arrays[f"{role}.counts"][m])[rows]))
    return panels, names


def specialisation_figure(
    report: dict[str, Any],
    arrays: Arrays,
    *,
    name: str | None = None,
    others: Mapping[str, tuple[dict[str, Any], Arrays]] | None = None,
) -> Figure:
    """Draw Figure 3: clusters, Stage I and the student in the layer that the report shows.

    Args:
        name: of the student's method, where there are others.
        others: further students of the same origin, by method: their reports and arrays.
    """
    shown = report["shown_decoder_layer"]
    m = decoder_layers(report).index(shown)
    panels, names = specialisation_panels(report, arrays, m)
    for method, (other, theirs) in (others or {}).items():
        panels.insert(-1, replace(specialisation_panels(other, theirs, m)[0][-1], title=method))
    if others:
        panels[-1] = replace(panels[-1], title=name or panels[-1].title)
    values = _nmi(report["models"]["student"])[0]
    highest = not np.isnan(values[m]) and values[m] == np.nanmax(values)
    heading = f"Decoder layer {shown}" + (", the one of the student's highest NMI" if highest else "")
    return specialisation_heatmaps(panels, names, heading=heading)


def _nmi(model: dict[str, Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (L,) NMI and (L,) the upper end of its interval for shuffled problem labels; NaN where undefined."""
    values = [layer["nmi"] for layer in model["layers"]]
    chance = [layer["nmi_shuffled_problems"]["high"] for layer in model["layers"]]
    return np.array(values, dtype=np.float64), np.array(chance, dtype=np.float64)
