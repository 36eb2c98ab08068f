"""The figures of an experts artifact, from what it holds: ``report.json`` and the arrays of ``routing.safetensors``."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from padd_stages.analyze_experts.figures import Line, Panel, layer_lines, load_figure, specialisation_heatmaps
from padd_stages.lib.measures.specialisation import relative_activation, selectivity

Arrays = Mapping[str, NDArray[Any]]

CLUSTERS = "clusters.activations"
TITLES = {"base": "base student", "stage1": "student after Stage I", "student": "student"}


def expert_figures(report: dict[str, Any], arrays: Arrays) -> dict[str, Figure]:
    """Figure 3, and load and NMI by layer, by name.

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
    """What figures and tables call each model of a report."""
    last = {"student": "student after Stages I to IV"} if "stage1" in report["models"] else {}
    return {role: (TITLES | last)[role] for role in report["models"]}


def decoder_layers(report: dict[str, Any]) -> list[int]:
    """(L,) decoder layer numbers of the MoE layers."""
    return [layer["decoder_layer"] for layer in report["models"]["student"]["layers"]]


def specialisation_panels(report: dict[str, Any], arrays: Arrays, m: int) -> tuple[list[Panel], list[str]]:
    """The heatmaps of MoE layer ``m`` and the names of their rows, the subdomains that have text."""
    models, titles = report["models"], model_titles(report)
    tokens = models["student"]["tokens_by_subdomain"]
    names = [name for name in report["subdomains"] if tokens[name] > 0]
    rows = [report["subdomains"].index(name) for name in names]
    panels = []
    if CLUSTERS in arrays:
        panels.append(Panel("teacher clusters", relative_activation(arrays[CLUSTERS][m])[rows]))
    for role in ("stage1" if "stage1" in models else "base", "student"):
        if role in models:
            panels.append(Panel(titles[role], selectivity(arrays[f"{role}.counts"][m])[rows]))
    return panels, names


def specialisation_figure(
    report: dict[str, Any],
    arrays: Arrays,
    *,
    name: str | None = None,
    others: Mapping[str, tuple[dict[str, Any], Arrays]] | None = None,
) -> Figure:
    """Figure 3: clusters, Stage I and the student in the layer that the report shows.

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
    """(L,) NMI and (L,) the upper end of what shuffled problem labels give; NaN: it cannot be told."""
    values = [layer["nmi"] for layer in model["layers"]]
    chance = [layer["nmi_shuffled_problems"]["high"] for layer in model["layers"]]
    return np.array(values, dtype=np.float64), np.array(chance, dtype=np.float64)
