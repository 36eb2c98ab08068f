"""Tables of warmup's effect on the student on held-out problems (docs/METHOD.md, section 3)."""

from collections.abc import Mapping
from typing import Any

from padd_stages.lib.plots.table import Cell, Table, cell

STATES = {"base": "base", "before": "new router", "after": "after warmup"}
ROUTINGS = {"topk": "top-K", "uniform": "uniform"}
# Numbers of the report: how a table calls them, and how they are written.
NUMBERS = {
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


def tables(report: Mapping[str, Any]) -> list[Table]:
    """Make a table for each routing; none where the report is not a warmup's with held-out problems."""
    if not report.keys() >= STATES.keys():
        return []
    return [_table(report, routing) for routing in ROUTINGS if routing in report["base"]]


def notes(report: Mapping[str, Any]) -> list[str]:
    """Return no notes: the tables hold everything."""
    return []


def _table(report: Mapping[str, Any], routing: str) -> Table:
    measured = {state: report[state][routing] for state in STATES}
    rows = [
        [Cell(head), *(cell(numbers[name], form) for numbers in measured.values())]
        for name, (head, form) in NUMBERS.items()
        if name in measured["base"]
    ]
    title = f"The student on held-out problems of D_B, {ROUTINGS[routing]} routing"
    return Table(title, ["measure", *STATES.values()], rows)
