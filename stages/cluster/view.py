"""The tables of Stage I: the clusters, the router rows made from them, and what warmup did."""

from typing import Any

from padd_artifacts.artifact import Artifact
from padd_stages.lib.plots.table import Cell, Table, cell

WARMUP_STATES = {"base": "base", "before": "new router", "after": "after warmup"}
# Numbers of a warmup's report: how a table calls them, and how they are written.
WARMUP_NUMBERS = {
    "loss": ("loss, nats", ".4f"),
    "accuracy": ("greedy accuracy, %", "%"),
    "nmi": ("NMI of expert and subdomain", ".4f"),
    "nmi_chance": ("NMI of shuffled labels, 97.5 %", ".4f"),
    "routing_entropy": ("routing entropy of a token", ".3f"),
    "load_entropy": ("load entropy", ".3f"),
    "max_vio": ("MaxVio", ".3f"),
    "dead_experts": ("dead experts", "d"),
    "expert_correlation": ("correlation between experts", ".3f"),
    "cluster_alignment": ("correlation with own cluster", ".3f"),
}


def cluster_table(clusters: Artifact) -> Table:
    """How good the teacher's clusters are, by layer."""
    layers: dict[str, Any] = clusters.report["teacher_layers"]
    forms = {
        "explained": ("variance explained, %", "%"),
        "random_mean": ("random clusters, %", "%"),
        "silhouette": ("silhouette", ".3f"),
        "stability": ("stability, ARI", ".3f"),
        "selectivity": ("selectivity", ".3f"),
        "selectivity_random": ("random clusters", ".3f"),
        "smallest": ("smallest", "d"),
        "largest": ("largest", "d"),
    }
    shown = {
        key: form
        for key, form in forms.items()
        if any(layer.get(key) is not None for layer in layers.values())
    }
    rows = [
        [Cell(number), *(cell(layers[number].get(key), form) for key, (_, form) in shown.items())]
        for number in sorted(layers, key=int)
    ]
    return Table(
        "Clusters of the teacher's neurons", ["teacher layer", *(head for head, _ in shown.values())], rows
    )


def router_table(clusters: Artifact) -> Table | None:
    """What the new router rows do on held-out tokens, by MoE layer; None without a student."""
    layers: dict[str, Any] = clusters.report.get("router", {})
    if not layers:
        return None
    chance = clusters.report.get("chance")
    forms = {
        "r_squared": ("ridge R²", ".3f"),
        "recall": ("in use", "%"),
        "recall_unblended": ("new rows alone", "%"),
        "recall_old": ("old rows", "%"),
    }
    rows = [
        [
            Cell(number),
            *(cell(layers[number].get(key), form) for key, (_, form) in forms.items()),
            cell(chance, "%"),
        ]
        for number in sorted(layers, key=int)
    ]
    return Table(
        "Recall of the teacher's most active cluster by the student's top-K, %",
        ["MoE layer", *(head for head, _ in forms.values()), "chance"],
        rows,
    )


def warmup_table(warmup: Artifact) -> Table | None:
    """Held-out rows of D_B before and after, under the student's own top-K routing."""
    report = warmup.report
    if not report.keys() >= WARMUP_STATES.keys():
        return None
    rows = [
        [Cell(head), *(cell(report[state]["topk"].get(name), form) for state in WARMUP_STATES)]
        for name, (head, form) in WARMUP_NUMBERS.items()
        if name in report["base"]["topk"]
    ]
    return Table("The student on held-out problems of D_B", ["measure", *WARMUP_STATES.values()], rows)
