"""Analysis of one model: measurement while it is loaded, and its part of the report."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from padd_stages.analyze_experts.cluster_agreement import agreement_json, matched_agreement, profile_agreement
from padd_stages.analyze_experts.expert_similarity import similarity_json, weight_similarity
from padd_stages.analyze_experts.inputs import AnalysisData
from padd_stages.analyze_experts.numbers import ExpertNumbers, as_json, expert_numbers
from padd_stages.analyze_experts.options import AnalyzeOptions
from padd_stages.analyze_experts.probe import Probe, probe_experts
from padd_stages.analyze_experts.routing_pass import sum_routing
from padd_stages.analyze_experts.samples import Sample, samples_json
from padd_stages.lib.data.subdomains import SUBDOMAINS
from padd_stages.lib.measures.routing import RoutingSums
from padd_stages.lib.models.frozen import FrozenModel
from padd_stages.lib.models.loading import CONFIG_KEY, LanguageModel
from padd_stages.lib.runtime.processes import Processes
from padd_stages.lib.runtime.reporter import Reporter

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ModelAnalysis:
    """Measurements of one model.

    Attributes:
        layers: decoder layer numbers of its L MoE layers.
        paths: as :meth:`~padd_stages.analyze_experts.paths.PathCounter.report` says.
        weights: (L, N, N) similarity of the experts' weights.
        state: bias and quality (L, N) fp32 of a student that padd trained; empty for other models.
        samples: as :func:`~padd_stages.analyze_experts.samples.samples_json` says.
    """

    layers: list[int]
    sums: RoutingSums
    paths: dict[str, Any]
    numbers: ExpertNumbers
    probe: Probe
    weights: Floats
    state: dict[str, Tensor]
    samples: dict[str, Any]

    def as_json(self, clusters: Floats | None, options: AnalyzeOptions) -> dict[str, Any]:
        """Return the model's part of ``report.json``; clusters (L, S, N) relative activations, where there are any."""
        report: dict[str, Any] = {
            "problems": len(self.sums.labels),
            "tokens": int(self.sums.tokens.sum()),
            "tokens_by_subdomain": dict(zip(SUBDOMAINS, self.sums.tokens.tolist(), strict=True)),
            **as_json(self.numbers, self.layers),
            "paths": self.paths,
        }
        pairs = zip(report["layers"], self.probe.between, self.weights, strict=True)
        for layer, between, weights in pairs:
            layer["similarity"] = similarity_json(between, weights)
        if clusters is not None:
            report["cluster_agreement"] = self._agreement(clusters, options)
        return report

    def _agreement(self, clusters: Floats, options: AnalyzeOptions) -> dict[str, Any]:
        chance = {"draws": options.permutations, "seed": options.seed}
        if self.probe.with_clusters is not None:
            matched = [matched_agreement(layer, **chance) for layer in self.probe.with_clusters]
            return agreement_json("activations over tokens", matched, self.probe.aligned)
        pairs = zip(clusters, self.sums.mean_probabilities, strict=True)
        profiles = [profile_agreement(a, p, **chance) for a, p in pairs]
        return agreement_json("profiles over subdomains", profiles, int(self.sums.tokens.sum()))

    def tensors(self) -> dict[str, Tensor]:
        """Return the model's part of ``routing.safetensors``.

        ``counts`` (L, N, S) int64 routed slots, ``probabilities`` (L, S, N) fp32 mean router probability, ``load``
        (L, N) fp32 share of slots, ``similarity_activations`` and ``similarity_weights`` (L, N, N) fp16; ``bias`` and
        ``quality`` (L, N) fp32 where padd trained the model.
        """
        loads = self.numbers.load.share
        return {
            "counts": torch.from_numpy(self.sums.joint),
            "probabilities": torch.from_numpy(self.sums.mean_probabilities).float(),
            "load": torch.from_numpy(loads).float(),
            "similarity_activations": torch.from_numpy(self.probe.between).half(),
            "similarity_weights": torch.from_numpy(self.weights).half(),
            **self.state,
        }


def analyse_model(
    name: str,
    data: AnalysisData,
    options: AnalyzeOptions,
    processes: Processes,
    *,
    title: str,
    keep_routes: bool,
    samples: Sequence[Sample],
    reporter: Reporter,
) -> ModelAnalysis:
    """Load a model, run it over the texts, with all of its experts over the sample, and release it."""
    reporter.phase(f"loading {name}")
    model = FrozenModel.load(name, options, processes, moe=True, shards=processes.shards)
    adapter = model.loaded.adapter
    assert adapter is not None  # moe=True
    reporter.phase(f"routing of the {title}", len(data.texts))
    sums, paths = sum_routing(
        model,
        data.texts,
        len(SUBDOMAINS),
        batch_tokens=options.batch_tokens,
        reporter=reporter,
    )
    reporter.phase(f"experts of the {title}", len(data.sample))
    probe = probe_experts(
        model,
        data.sample,
        batch_tokens=options.batch_tokens,
        keep_routes=keep_routes,
        teacher=data.teacher,
        ends=data.ends,
        reporter=reporter,
    )
    return ModelAnalysis(
        layers=[layer.layer_index for layer in adapter.layers],
        sums=sums,
        paths=paths.report(),
        numbers=expert_numbers(sums, permutations=options.permutations, seed=options.seed),
        probe=probe,
        weights=np.stack([weight_similarity(layer.experts) for layer in adapter.layers]),
        state=_router_state(model.loaded),
        samples=samples_json(model, samples, system=options.system, thinking=options.thinking),
    )


def _router_state(model: LanguageModel) -> dict[str, Tensor]:
    if getattr(model.model.config, CONFIG_KEY, None) is None:
        return {}
    assert model.adapter is not None
    assert model.ema is not None
    return {"bias": model.adapter.bias.cpu().float(), "quality": model.ema.cpu().float()}
