"""Comparison of router maps and matchings on held-out D_A tokens (docs/METHOD.md, section 2)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from padd_stages.cluster.options import ClusterOptions
from padd_stages.cluster.pair_statistics import LayerLink, PairStates, most_active_expert
from padd_stages.cluster.router_rows import Match, RouterMap
from padd_stages.lib.measures.ridge import FitSums
from padd_stages.lib.models.moe_adapter import MoEAdapter
from padd_stages.lib.models.router_rules import correction_offsets
from padd_stages.lib.runtime.sharding import gather

ROUTER_MAPS: tuple[RouterMap, ...] = get_args(RouterMap)
MATCHES: tuple[Match, ...] = get_args(Match)
# Chosen: recalls closer than this are called the same, since tokens of one text are much alike.
NOTICEABLE_RECALL = 0.01


class Candidate(NamedTuple):
    """A way to make router rows; omega is the options' where ``blended``, else 1. ``keep`` is the old router."""

    router_map: RouterMap
    match: Match
    blended: bool = True


@dataclass(frozen=True)
class LayerRouter:
    """One MoE layer's routers, fitted on ``tokens``.

    orders: expert_to_cluster (N,) by matching. correlation: the mean over matched pairs, under the matching in use.
    rows: (N, d_S) fp32 in expert order by candidate. mapping: M (d_T, d_S) fp32 of the ridge map.
    """

    link: LayerLink
    tokens: int
    orders: Mapping[Match, NDArray[np.int32]]
    correlation: float
    rows: Mapping[Candidate, Tensor]
    mapping: Tensor | None


def candidates(options: ClusterOptions) -> list[Candidate]:
    """List the routers to measure: the one in use and the old one; to compare, every map and both matchings.

    ``--compare-maps`` adds one product with a router's rows for each candidate and held-out token. Where ridge is not
    the map in use it also adds the ridge fit, at the paper's scale 23 MFLOP in fp64 for a token of a layer and the
    memory of :class:`RidgeSums`, as much as the default map costs: that is what ``--no-compare-maps`` saves. The option
    counts as one of the method, like ``--stability``: it changes report.json, which the digest covers, and no tensor.
    """
    used = Candidate(options.router_map, options.match)
    found = {used, used._replace(router_map="keep")}
    if options.compare_maps:
        found |= {candidate._replace(match=match) for candidate in found for match in MATCHES}
        found |= {used._replace(router_map=router_map) for router_map in ROUTER_MAPS}
    return [candidate._replace(blended=blended) for candidate in sorted(found) for blended in (True, False)]


def chosen_experts(
    adapter: MoEAdapter, moe: int, inputs: Tensor, rows: Tensor, own: Tensor | None = None
) -> Tensor:
    """Return the top-K (tokens, K) of inputs (tokens, d_S) if MoE layer ``moe`` had the router rows (N, d_S).

    By the family's own rule, and with the biases that the student brings along: those of its checkpoint, ``own`` (N,)
    among them where the router has one, and its adapter's.
    """
    layer, bias = adapter.layers[moe], adapter.bias[moe].to(inputs.device)
    logits = F.linear(inputs.float(), rows.to(inputs.device), None if own is None else own.float())
    offsets = correction_offsets(layer.router)
    if adapter.bias_mode == "logits":
        logits = logits + bias
    else:
        offsets = (*offsets, bias)
    return layer.rule.choose(layer.rule.scores(logits), offsets)


class HeldOutSums:
    """R^2 of the ridge map and recall of one layer's routers on tokens that neither was made from.

    Kept for each layer: M in fp32 (29 MB at d_S 2048 and d_T 3584, 1.4 GB for 48 layers) and the candidates' rows (1 MB
    each at N 128, at most 12).
    """

    def __init__(self, router: LayerRouter, h: Tensor, adapter: MoEAdapter) -> None:
        """Start with no tokens; ``h`` (N,) are mean activations of the clusters."""
        self.router, self.h, self.adapter = router, h, adapter
        self.expert_of = {match: torch.from_numpy(np.argsort(o)) for match, o in router.orders.items()}
        own = getattr(adapter.layers[router.link.moe].router, "bias", None)
        self.own = None if own is None else gather(own)
        self.fit = FitSums()
        self.hits = dict.fromkeys(router.rows, 0)
        self.count = 0

    @torch.no_grad()
    def add(self, states: PairStates) -> None:
        """Add a batch's aligned tokens."""
        link, aligned = self.router.link, states.aligned[self.router.link.teacher]
        inputs = states.student_inputs[link.moe]
        if self.router.mapping is not None:
            self.fit.add(self.router.mapping, inputs, states.teacher_inputs[link.teacher])
        wanted = {match: most_active_expert(aligned, self.h, e) for match, e in self.expert_of.items()}
        for candidate, rows in self.router.rows.items():
            chosen = chosen_experts(self.adapter, link.moe, inputs, rows, self.own).cpu()
            self.hits[candidate] += int((chosen == wanted[candidate.match][:, None]).any(dim=-1).sum())
        self.count += len(inputs)

    def add_up(self, total: Callable[[Tensor], Tensor]) -> None:
        """Take the sums over all processes in place of this one's; ``total`` returns that of a tensor."""
        if self.router.mapping is not None:
            self.fit.add_up(total, len(self.router.mapping))
        hits = total(torch.tensor([*self.hits.values(), self.count])).tolist()
        self.hits, self.count = dict(zip(self.hits, hits)), hits[-1]

    def recall(self, candidate: Candidate) -> float:
        """Compute how often the top-K of a router holds the expert of the teacher's most active cluster."""
        return self.hits[candidate] / max(self.count, 1)


def compare(recall: Callable[[Candidate], float], options: ClusterOptions) -> dict[str, Any]:
    """Return a layer's recalls: ``maps`` under the matching in use, ``match`` for the map in use."""

    def both(router_map: RouterMap, match: Match) -> dict[str, float]:
        return {
            "recall": recall(Candidate(router_map, match)),
            "recall_unblended": recall(Candidate(router_map, match, blended=False)),
        }

    return {
        "maps": {router_map: both(router_map, options.match) for router_map in ROUTER_MAPS},
        "match": {
            match: both(options.router_map, match) | {"recall_old": recall(Candidate("keep", match))}
            for match in MATCHES
        },
    }


def mean_of(tables: Sequence[Any]) -> Any:
    """Compute the mean of numbers to six digits, or of nested objects of numbers key by key."""
    first = tables[0]
    if isinstance(first, dict):
        return {key: mean_of([table[key] for table in tables]) for key in first}
    return round(fmean(tables), 6)


def router_verdict(recall: float, old: float, chance: float) -> str:
    """Describe the value of the router rows in use in one line; recalls are means over layers."""
    if recall <= chance + NOTICEABLE_RECALL:
        worth = "no better than chance"
    elif recall <= old + NOTICEABLE_RECALL:
        worth = "better than chance, no better than the old router"
    else:
        worth = "better than the old router"
    text = f"the router finds the most active cluster's expert for {recall:.1%} of held-out tokens"
    return f"{text}, the old one {old:.1%}, chance {chance:.1%}: {worth}".replace("%", " %")
