"""`padd analyze-experts`: how a student routes, beside the base, Stage I and the clusters (docs/METHOD.md, 8)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from padd_artifacts.artifact import Artifact, open_artifact
from padd_artifacts.errors import PaddError, UsageError
from padd_artifacts.manifest import file_parent
from padd_artifacts.plan import Plan
from padd_artifacts.writer import ArtifactWriter, Output
from padd_stages.data.subdomains import SUBDOMAINS
from padd_stages.models.loading import load_model, model_parent
from padd_stages.options.analyze_experts import AnalyzeInputs, AnalyzeOptions
from padd_stages.report.curves import training_figure
from padd_stages.report.expert_figures import CLUSTERS, TITLES, expert_figures
from padd_stages.report.expert_numbers import ExpertNumbers, agreement_json, as_json, expert_numbers
from padd_stages.report.figures import save_figure
from padd_stages.report.routing import RoutingSums, sum_routing
from padd_stages.report.texts import analysis_texts, read_texts
from padd_stages.runtime.devices import pick_device
from padd_stages.runtime.reporter import SILENT, Reporter

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Routed:
    """One model's routing. ``layers`` are decoder layer numbers of its L MoE layers."""

    sums: RoutingSums
    numbers: ExpertNumbers
    layers: list[int]
    left_out: int


def plan(inputs: AnalyzeInputs, options: AnalyzeOptions) -> Plan:
    """Open the models' configurations, the problems and the clusters."""
    parents = {role: model_parent(name) for role, name in _models(inputs).items()}
    rows = _rows(inputs, options)
    if inputs.problems is not None:
        parents["problems"] = file_parent(inputs.problems)
    elif inputs.split is not None:
        parents["split"] = open_artifact(inputs.split, "split").as_parent()
    if inputs.clusters is not None:
        parents["clusters"] = _open_clusters(inputs.clusters).as_parent()
    return Plan("experts", options, parents, {"problems": len(rows), "models": len(_models(inputs))})


def run(
    inputs: AnalyzeInputs, options: AnalyzeOptions, output: Output, reporter: Reporter = SILENT
) -> Artifact:
    """Route the problems through every model named; write ``report.json``, ``routing.safetensors`` and figures."""
    output.check()
    plan_ = plan(inputs, options)
    rows = _rows(inputs, options)
    with ArtifactWriter(output, plan_) as writer:
        routed = {role: _route(role, name, rows, options, reporter) for role, name in _models(inputs).items()}
        _check_alike(routed)
        clusters = _cluster_activations(inputs.clusters, routed["student"])
        report, tensors = _report(routed, clusters, options), _tensors(routed, clusters)
        writer.write_json("report.json", report)
        writer.write_tensors("routing.safetensors", tensors)
        reporter.phase("figures")
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        figures = expert_figures(report, arrays) | {"training": training_figure(inputs.student)}
        for name, figure in figures.items():
            if figure is not None:
                save_figure(figure, writer.path(f"figures/{name}.png"))
        writer.summary.update(_summary(routed["student"], options))
        if writer.summary["nmi"] is None:
            reporter.warn(
                "all text is of one subdomain, so NMI and ESI cannot be told; give problems of several subdomains."
            )
    return writer.artifact


def _models(inputs: AnalyzeInputs) -> dict[str, str]:
    """The models by role, in the order in which they came to be."""
    named = {"base": inputs.base, "stage1": inputs.stage1, "student": inputs.student}
    return {role: name for role, name in named.items() if name is not None}


def _rows(inputs: AnalyzeInputs, options: AnalyzeOptions) -> list[dict[str, Any]]:
    """The problems to read: all, or a seeded sample in their own order."""
    if inputs.problems is not None:
        rows = read_texts(inputs.problems)
    elif inputs.split is not None:
        rows = open_artifact(inputs.split, "split").jsonl("d.jsonl")
    else:
        raise UsageError(
            "neither --split nor --problems is given, so there is no text to route; name one of them."
        )
    if not rows:
        raise PaddError(
            f"D_D of {inputs.split} holds no problem, so there is no text to route; use a larger split."
        )
    if len(rows) <= options.max_problems:
        return rows
    chosen = np.random.default_rng(options.seed).choice(len(rows), options.max_problems, replace=False)
    return [rows[i] for i in sorted(chosen)]


def _open_clusters(path: Path) -> Artifact:
    clusters = open_artifact(path, "clusters")
    if "student_layers.safetensors" not in clusters.manifest.files:
        raise PaddError(
            f"{path} was made without a student, so its clusters belong to no expert and cannot be compared with any; "
            "run padd cluster with --student, or leave --clusters out."
        )
    return clusters


def _route(
    role: str, name: str, rows: list[dict[str, Any]], options: AnalyzeOptions, reporter: Reporter
) -> _Routed:
    """Load one model, route all texts through it, and let it go again."""
    reporter.phase(f"loading {name}")
    loaded = load_model(name, dtype=options.dtype, device=pick_device(options.device), moe=True)
    assert loaded.adapter is not None  # moe=True
    layers = [layer.layer_index for layer in loaded.adapter.layers]
    if options.layer is not None and options.layer not in layers:
        raise UsageError(
            f"--layer is {options.layer}, which is no MoE layer of the {TITLES[role]}; its MoE layers are "
            f"{', '.join(map(str, layers))}."
        )
    texts, left_out = analysis_texts(
        loaded.tokenizer,
        rows,
        system=options.system,
        thinking=options.thinking,
        max_tokens=options.max_tokens,
    )
    if not texts:
        raise PaddError(
            f"--max-tokens {options.max_tokens} cuts every one of {len(rows)} problems before its first counted "
            "token, so nothing is left to analyse; raise it."
        )
    if left_out:
        reporter.note(f"{role}: {left_out} of {len(rows)} problems are left out, cut off by --max-tokens.")
    reporter.phase(f"routing of the {TITLES[role]}", len(texts))
    sums = sum_routing(
        loaded.model,
        loaded.adapter,
        texts,
        len(SUBDOMAINS),
        pad_id=loaded.pad_id,
        batch_tokens=options.batch_tokens,
        reporter=reporter,
    )
    numbers = expert_numbers(sums, permutations=options.permutations, seed=options.seed)
    return _Routed(sums, numbers, layers, left_out)


def _check_alike(routed: dict[str, _Routed]) -> None:
    """Experts are compared by number, so all models must have the same layers and experts."""
    expected = routed["student"].sums.slots.shape[1:]
    for role, other in routed.items():
        if other.sums.slots.shape[1:] != expected:
            raise PaddError(
                f"the {TITLES[role]} has {other.sums.slots.shape[1]} MoE layers of {other.sums.slots.shape[2]} experts "
                f"and the student has {expected[0]} of {expected[1]}, so they cannot be compared; "
                "name checkpoints of one model."
            )


def _cluster_activations(path: Path | None, student: _Routed) -> Floats | None:
    """(L, S, N) relative activations of the teacher's clusters in expert order, S as SUBDOMAINS; NaN: no text."""
    if path is None:
        return None
    clusters = _open_clusters(path)
    tensors, names = clusters.tensors("student_layers.safetensors"), clusters.report["subdomains"]
    layers, experts = student.sums.slots.shape[1:]
    result = np.full((layers, len(SUBDOMAINS), experts), np.nan)
    for m in range(layers):
        target = tensors.get(f"moe.{m}.target_subdomain")
        if target is None or tuple(target.shape) != (len(names), experts):
            found = "nothing" if target is None else f"a matrix of {tuple(target.shape)}"
            raise PaddError(
                f"{path} holds {found} for MoE layer {m} where {(len(names), experts)} is needed, so its clusters are "
                "not this student's; name the clusters artifact that was made for it."
            )
        for s, name in enumerate(names):
            result[m, SUBDOMAINS.index(name)] = target[s].double().numpy()
    return result


def _shown_layer(student: _Routed, decoder_layer: int | None) -> int:
    """Decoder layer of the heatmaps: the one asked for, else that of the student's highest NMI."""
    if decoder_layer is not None:
        return decoder_layer
    nmi = student.numbers.nmi
    return student.layers[0 if np.isnan(nmi).all() else int(np.nanargmax(nmi))]


def _report(routed: dict[str, _Routed], clusters: Floats | None, options: AnalyzeOptions) -> dict[str, Any]:
    """All numbers, by model."""
    report: dict[str, Any] = {
        "subdomains": list(SUBDOMAINS),
        "shown_decoder_layer": _shown_layer(routed["student"], options.layer),
        "models": {},
    }
    for role, model in routed.items():
        sums = model.sums
        report["models"][role] = {
            "problems": len(sums.labels),
            "left_out": model.left_out,
            "tokens": int(sums.tokens.sum()),
            "tokens_by_subdomain": dict(zip(SUBDOMAINS, sums.tokens.tolist(), strict=True)),
            **as_json(model.numbers, model.layers),
        }
        if clusters is not None:
            report["models"][role]["cluster_agreement"] = agreement_json(
                clusters, sums.mean_probabilities, permutations=options.permutations, seed=options.seed
            )
    return report


def _tensors(routed: dict[str, _Routed], clusters: Floats | None) -> dict[str, torch.Tensor]:
    """By model: ``counts`` (L, N, S) int64 routed slots, ``probabilities`` (L, S, N) fp32 mean router probability;
    and the clusters' activations (L, S, N) fp32."""
    tensors = {CLUSTERS: torch.from_numpy(clusters).float()} if clusters is not None else {}
    for role, model in routed.items():
        tensors[f"{role}.counts"] = torch.from_numpy(model.sums.joint)
        tensors[f"{role}.probabilities"] = torch.from_numpy(model.sums.mean_probabilities).float()
    return tensors


def _summary(student: _Routed, options: AnalyzeOptions) -> dict[str, Any]:
    numbers = as_json(student.numbers, student.layers)
    return {
        "nmi": numbers["nmi"],
        "nmi_permutation_high": numbers["nmi_shuffled_tokens"]["high"],
        "nmi_problem_permutation_high": numbers["nmi_shuffled_problems"]["high"],
        "esi": numbers["esi"],
        "load_entropy": numbers["load_entropy"],
        "max_vio": numbers["max_vio"],
        "dead_experts": numbers["dead_experts"],
    }
