"""The student's half of Stage I: router rows and targets from a teacher's clusters and the texts of D_A."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from padd_stages.clustering.layers import LayerClusters
from padd_stages.clustering.matching import blend_rows, map_centroids, match_experts
from padd_stages.clustering.ridge import RidgeSums
from padd_stages.clustering.statistics import HeldOutSums, LayerLink, LinkSums, ModelPair, TargetSums
from padd_stages.clustering.texts import AlignedText, hold_out
from padd_stages.models.loading import LanguageModel
from padd_stages.models.moe import MoEAdapter
from padd_stages.objectives.routing import activation_distribution
from padd_stages.options.cluster import ClusterOptions
from padd_stages.runtime.reporter import Reporter


@dataclass(frozen=True)
class StudentRouter:
    """``tensors`` of student_layers.safetensors (names as :func:`make_router` says) and its part of report.json."""

    tensors: dict[str, Tensor]
    report: dict[str, Any]
    summary: dict[str, Any]


@dataclass(frozen=True)
class _Rows:
    """One MoE layer's router, in expert order: rows (N, d_S); ``pure`` are those of omega = 1."""

    expert_to_cluster: NDArray[np.int32]
    rows: Tensor
    pure: Tensor
    mapping: Tensor | None
    matched: float


def make_router(
    teacher: LanguageModel,
    student: LanguageModel,
    links: list[LayerLink],
    found: Mapping[int, LayerClusters],
    texts: list[AlignedText],
    options: ClusterOptions,
    reporter: Reporter,
) -> StudentRouter:
    """Two passes over D_A: the texts to fit on, then those held out (which count towards the targets too).

    Tensors of MoE layer m, experts in the student's order: ``moe.{m}.router_rows`` (N, d_S), ``moe.{m}.target`` (N,)
    p_T, ``moe.{m}.expert_to_cluster`` (N,) int32, ``moe.{m}.target_subdomain`` (S', N) h_T / its mean over clusters,
    for the subdomains that the report lists.
    """
    adapter = student.adapter
    assert adapter is not None
    assignments = {layer: torch.from_numpy(result.assignment) for layer, result in found.items()}
    pair = ModelPair(teacher, student, assignments, adapter.num_experts)
    targets = TargetSums(list(found), adapter.num_experts)
    fitted_on, held_out = hold_out(texts, options.held_out)
    hidden = next(iter(found.values())).centroids.shape[1]

    reporter.phase("activations and router probabilities on D_A", total=len(fitted_on))
    sums = [
        LinkSums(link, adapter.num_experts, _ridge_sums(adapter, link, hidden, options)) for link in links
    ]
    for states in pair.states(fitted_on, options.batch_tokens, reporter):
        targets.add(states)
        for link_sums in sums:
            link_sums.add(states)
    routers = [_make_rows(link_sums, adapter, found, options) for link_sums in sums]
    _warn_of_few_tokens(sums[0], adapter, options, reporter)

    reporter.phase("held-out texts", total=len(held_out))
    # Which cluster is the most active on a held-out token is told by the means that were known before it.
    checks = [_held_out(link, router, targets, adapter) for link, router in zip(links, routers)]
    for states in pair.states(held_out, options.batch_tokens, reporter):
        targets.add(states)
        for check in checks:
            check.add(states)
    tensors = {}
    for link, router in zip(links, routers):
        tensors |= _tensors(link, router, targets, options.xi)
    report = _report(sums, checks, routers, targets, adapter)
    report["texts"] = {"fitted_on": len(fitted_on), "held_out": len(held_out)}
    return StudentRouter(tensors, report, _summary(report))


def _ridge_sums(
    adapter: MoEAdapter, link: LayerLink, hidden: int, options: ClusterOptions
) -> RidgeSums | None:
    if options.router_map != "ridge":
        return None
    return RidgeSums(adapter.router_weight(link.moe).shape[1], hidden)


def _make_rows(
    sums: LinkSums, adapter: MoEAdapter, found: Mapping[int, LayerClusters], options: ClusterOptions
) -> _Rows:
    old = adapter.router_weight(sums.link.moe)
    correlation = sums.correlation.correlation()
    expert_to_cluster = match_experts(correlation, options.match)
    mapping = None if sums.ridge is None else sums.ridge.solve(options.ridge_penalty)
    directions = map_centroids(
        torch.from_numpy(found[sums.link.teacher].centroids),
        options.router_map,
        old.shape[1],
        ridge=mapping,
        seed=options.seed,
    )
    return _Rows(
        expert_to_cluster,
        blend_rows(old, directions, expert_to_cluster, options.router_blend),
        blend_rows(old, directions, expert_to_cluster, 1.0),
        mapping,
        float(correlation[expert_to_cluster, np.arange(len(correlation))].mean()),
    )


def _held_out(link: LayerLink, router: _Rows, targets: TargetSums, adapter: MoEAdapter) -> HeldOutSums:
    return HeldOutSums(
        link,
        targets.overall(link.teacher),
        router.expert_to_cluster,
        {
            "new": router.rows,
            "unblended": router.pure,
            "old": adapter.router_weight(link.moe).detach().float().cpu(),
        },
        router.mapping,
        adapter.top_k,
    )


def _tensors(link: LayerLink, router: _Rows, targets: TargetSums, xi: float) -> dict[str, Tensor]:
    order = torch.from_numpy(router.expert_to_cluster).long()
    by_subdomain = targets.by_subdomain(link.teacher)[:, order]
    name = f"moe.{link.moe}"
    return {
        f"{name}.router_rows": router.rows,
        f"{name}.target": activation_distribution(targets.overall(link.teacher)[order], xi).float(),
        f"{name}.expert_to_cluster": torch.from_numpy(router.expert_to_cluster),
        f"{name}.target_subdomain": (by_subdomain / by_subdomain.mean(dim=1, keepdim=True)).float(),
    }


def _report(
    sums: list[LinkSums],
    checks: list[HeldOutSums],
    routers: list[_Rows],
    targets: TargetSums,
    adapter: MoEAdapter,
) -> dict[str, Any]:
    router_report = {}
    for check, router in zip(checks, routers):
        r_squared = check.fit.r_squared()
        router_report[str(check.link.moe)] = {
            "r_squared": None if r_squared is None else round(r_squared, 6),
            "recall": round(check.recall("new"), 6),
            "recall_unblended": round(check.recall("unblended"), 6),
            "recall_old": round(check.recall("old"), 6),
            "mean_correlation": round(router.matched, 6),
        }
    return {
        "layer_map": {
            str(s.link.moe): {"student_layer": s.link.student, "teacher_layer": s.link.teacher} for s in sums
        },
        "subdomains": targets.subdomains,
        "scale": {str(layer): round(float(targets.overall(layer).mean()), 9) for layer in targets.sums},
        "tokens": {
            "fitted_on": sums[0].correlation.count,
            "held_out": checks[0].count,
            "teacher": int(targets.counts.sum()),
        },
        "chance": round(adapter.top_k / adapter.num_experts, 6),
        "router": router_report,
    }


def _summary(report: dict[str, Any]) -> dict[str, Any]:
    layers = report["router"].values()
    fits = [layer["r_squared"] for layer in layers if layer["r_squared"] is not None]
    return {
        "ridge_r_squared": round(fmean(fits), 6) if fits else None,
        "recall": round(fmean(layer["recall"] for layer in layers), 6),
        "recall_unblended": round(fmean(layer["recall_unblended"] for layer in layers), 6),
        "recall_old": round(fmean(layer["recall_old"] for layer in layers), 6),
        "recall_chance": report["chance"],
    }


def _warn_of_few_tokens(
    sums: LinkSums, adapter: MoEAdapter, options: ClusterOptions, reporter: Reporter
) -> None:
    width = adapter.router_weight(0).shape[1]
    if options.router_map == "ridge" and sums.correlation.count < width:
        reporter.warn(
            f"the ridge map has {sums.correlation.count} tokens to fit {width} student dimensions, so it will not hold "
            "on other texts; give D_A more rows, or raise --max-tokens."
        )
