"""Student's half of Stage I: router rows and targets from a teacher's clusters and the texts of D_A."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from padd_stages.cluster.aligned_texts import AlignedText
from padd_stages.cluster.layer_clusters import LayerClusters
from padd_stages.cluster.options import ClusterOptions
from padd_stages.cluster.pair_statistics import LayerLink, LinkSums, ModelPair, PairStates, TargetSums
from padd_stages.cluster.quality import selectivity
from padd_stages.cluster.router_recall import (
    Candidate,
    HeldOutSums,
    LayerRouter,
    candidates,
    compare,
    mean_of,
    router_verdict,
)
from padd_stages.cluster.router_rows import Match, RouterMap, blend_rows, map_centroids, match_experts
from padd_stages.lib.data.sequences import hold_out
from padd_stages.lib.measures.ridge import RidgeSums
from padd_stages.lib.models.moe_adapter import MoEAdapter
from padd_stages.lib.objectives.expert_init import activation_distribution
from padd_stages.lib.runtime.reporter import Reporter
from padd_stages.lib.runtime.sharding import gather

RECALLS = ("recall", "recall_unblended", "recall_old")


@dataclass(frozen=True)
class StudentRouter:
    """``tensors`` of student_layers.safetensors (names as :func:`make_router` says) and its part of report.json.

    ``selectivity``: what report.json says of each teacher layer's clusters, by the layer's number.
    """

    tensors: dict[str, Tensor]
    report: dict[str, Any]
    selectivity: dict[str, dict[str, float | None]]
    summary: dict[str, Any]


class _Targets:
    """Sums for h of the clusters, and of random clusters of the same neurons and sizes."""

    def __init__(self, layers: list[int], clusters: int) -> None:
        self.clustered, self.random = TargetSums(layers, clusters), TargetSums(layers, clusters)

    def add(self, states: PairStates) -> None:
        self.clustered.add(states.subdomains, states.activations)
        self.random.add(states.subdomains, states.random)

    def add_up(self, total: Callable[[Tensor], Tensor]) -> None:
        self.clustered.add_up(total)
        self.random.add_up(total)

    def selectivity(self) -> dict[str, dict[str, float | None]]:
        """Return the selectivity of clusters and of random clusters, by teacher layer."""
        return {
            str(layer): {
                "selectivity": _rounded(selectivity(self.clustered.by_subdomain(layer).numpy())),
                "selectivity_random": _rounded(selectivity(self.random.by_subdomain(layer).numpy())),
            }
            for layer in self.clustered.sums
        }


def make_router(
    pair: ModelPair,
    links: list[LayerLink],
    clusters: Mapping[int, LayerClusters],
    texts: list[AlignedText],
    options: ClusterOptions,
    reporter: Reporter,
) -> StudentRouter:
    """Fit routers on D_A in two passes: the texts to fit on, then those held out (which count for the targets too).

    Each process reads its share of the texts; the sums are added up after each pass, and all go on with the same.

    Tensors of MoE layer m, experts in the student's order: ``moe.{m}.router_rows`` (N, d_S), ``moe.{m}.target`` (N,)
    p_T, ``moe.{m}.expert_to_cluster`` (N,) int32, ``moe.{m}.target_subdomain`` (S', N) h_T / its mean over clusters,
    for the subdomains that the report lists.
    """
    targets = _Targets(list(clusters), pair.adapter.num_experts)
    total = pair.processes.sum
    fitted_on, held_out = hold_out(texts, options.held_out)
    routers = _fit_routers(pair, links, clusters, fitted_on, targets, options, reporter)
    known = {layer: targets.clustered.overall(layer) for layer in clusters}

    reporter.phase("held-out texts", total=len(held_out))
    # Which cluster is the most active on a held-out token is decided by the means known before it.
    checks = [HeldOutSums(r, known[r.link.teacher], pair.adapter) for r in routers]
    if not pair.processes.is_main:  # the first process has the sums of all until here
        targets = _Targets(list(clusters), pair.adapter.num_experts)
    for states in pair.states(held_out, options.batch_tokens, reporter):
        targets.add(states)
        for check in checks:
            check.add(states)
    targets.add_up(total)
    for check in checks:
        check.add_up(total)
    tensors = {}
    for router in routers:
        tensors |= _tensors(router, targets.clustered, options)
    report = _report(checks, targets.clustered, pair.adapter, options)
    report["texts"] = {"fitted_on": len(fitted_on), "held_out": len(held_out)}
    selective = targets.selectivity()
    summary = _summary(report, selective)
    report["router_verdict"] = router_verdict(summary["recall"], summary["recall_old"], report["chance"])
    return StudentRouter(tensors, report, selective, summary)


def _fit_routers(
    pair: ModelPair,
    links: list[LayerLink],
    clusters: Mapping[int, LayerClusters],
    texts: list[AlignedText],
    targets: _Targets,
    options: ClusterOptions,
    reporter: Reporter,
) -> list[LayerRouter]:
    """Make the first pass; a layer's sums are released as soon as its router is made."""
    reporter.phase("activations and router probabilities on D_A", total=len(texts))
    sums = [_link_sums(link, pair.adapter, clusters[link.teacher], options) for link in links]
    for states in pair.states(texts, options.batch_tokens, reporter):
        targets.add(states)
        for link_sums in sums:
            link_sums.add(states)
    targets.add_up(pair.processes.sum)
    routers = []
    for link_sums in sums:
        link_sums.add_up(pair.processes.sum)
        routers.append(_make_rows(link_sums, pair.adapter, clusters[link_sums.link.teacher], options))
        link_sums.ridge = None
    _warn_of_few_tokens(sums[0], pair.adapter, options, reporter)
    return routers


def _link_sums(
    link: LayerLink, adapter: MoEAdapter, clusters: LayerClusters, options: ClusterOptions
) -> LinkSums:
    ridge = None
    if any(candidate.router_map == "ridge" for candidate in candidates(options)):
        ridge = RidgeSums(adapter.router_weight(link.moe).shape[1], clusters.centroids.shape[1])
    return LinkSums(link, adapter.num_experts, ridge)


def _make_rows(
    sums: LinkSums, adapter: MoEAdapter, clusters: LayerClusters, options: ClusterOptions
) -> LayerRouter:
    old = gather(adapter.router_weight(sums.link.moe))
    correlation = sums.correlation.correlation()
    mapping = None if sums.ridge is None else sums.ridge.solve(options.ridge_penalty)
    wanted = candidates(options)
    maps: set[RouterMap] = {candidate.router_map for candidate in wanted}
    matches: set[Match] = {candidate.match for candidate in wanted}
    centroids, width = torch.from_numpy(clusters.centroids), old.shape[1]
    directions = {
        router_map: map_centroids(centroids, router_map, width, ridge=mapping, seed=options.seed)
        for router_map in maps
    }
    orders: dict[Match, NDArray[np.int32]] = {match: match_experts(correlation, match) for match in matches}
    return LayerRouter(
        link=sums.link,
        tokens=sums.correlation.count,
        orders=orders,
        correlation=float(correlation[orders[options.match], np.arange(len(correlation))].mean()),
        rows={
            c: blend_rows(
                old, directions[c.router_map], orders[c.match], options.router_blend if c.blended else 1.0
            )
            for c in wanted
        },
        mapping=None if mapping is None else mapping.float(),
    )


def _tensors(router: LayerRouter, targets: TargetSums, options: ClusterOptions) -> dict[str, Tensor]:
    expert_to_cluster = torch.from_numpy(router.orders[options.match])
    order, layer = expert_to_cluster.long(), router.link.teacher
    by_subdomain = targets.by_subdomain(layer)[:, order]
    name = f"moe.{router.link.moe}"
    return {
        f"{name}.router_rows": router.rows[Candidate(options.router_map, options.match)],
        f"{name}.target": activation_distribution(targets.overall(layer)[order], options.xi).float(),
        f"{name}.expert_to_cluster": expert_to_cluster,
        f"{name}.target_subdomain": (by_subdomain / by_subdomain.mean(dim=1, keepdim=True)).float(),
    }


def _report(
    checks: list[HeldOutSums], targets: TargetSums, adapter: MoEAdapter, options: ClusterOptions
) -> dict[str, Any]:
    layers = {str(check.router.link.moe): _layer_report(check, options) for check in checks}
    compared = [layer["comparison"] for layer in layers.values()]
    return {
        "layer_map": {
            str(link.moe): {"student_layer": link.student, "teacher_layer": link.teacher}
            for link in (check.router.link for check in checks)
        },
        "subdomains": targets.subdomains,
        "scale": {str(layer): round(float(targets.overall(layer).mean()), 9) for layer in targets.sums},
        "tokens": {
            "fitted_on": checks[0].router.tokens,
            "held_out": checks[0].count,
            "teacher": int(targets.counts.sum()),
        },
        "chance": round(adapter.top_k / adapter.num_experts, 6),
        "router": layers,
        "comparison": mean_of(compared) if options.compare_maps else None,
    }


def _layer_report(check: HeldOutSums, options: ClusterOptions) -> dict[str, Any]:
    def recall(candidate: Candidate) -> float:
        return round(check.recall(candidate), 6)

    used = Candidate(options.router_map, options.match)
    return {
        "r_squared": _rounded(check.fit.r_squared()),
        "recall": recall(used),
        "recall_unblended": recall(used._replace(blended=False)),
        "recall_old": recall(used._replace(router_map="keep")),
        "mean_correlation": round(check.router.correlation, 6),
        "comparison": compare(recall, options) if options.compare_maps else None,
    }


def _summary(report: dict[str, Any], selective: Mapping[str, Mapping[str, float | None]]) -> dict[str, Any]:
    layers, of_clusters = report["router"].values(), selective.values()
    means = {name: _mean(layer[name] for layer in layers) for name in RECALLS}
    return {
        "ridge_r_squared": _mean(layer["r_squared"] for layer in layers),
        **means,
        "recall_chance": report["chance"],
        "selectivity": _mean(layer["selectivity"] for layer in of_clusters),
        "selectivity_random": _mean(layer["selectivity_random"] for layer in of_clusters),
    }


def _mean(values: Iterable[float | None]) -> float | None:
    """Compute the mean of the values that are known; None if none is."""
    known = [value for value in values if value is not None]
    return round(fmean(known), 6) if known else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _warn_of_few_tokens(
    sums: LinkSums, adapter: MoEAdapter, options: ClusterOptions, reporter: Reporter
) -> None:
    width, tokens = adapter.router_weight(0).shape[1], sums.correlation.count
    if options.router_map == "ridge" and tokens < width:
        reporter.warn(
            f"the ridge map has {tokens} tokens to fit {width} student dimensions, so it will not hold "
            "on other texts; give D_A more rows, or raise --max-tokens."
        )
