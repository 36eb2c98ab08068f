"""`padd analyze-experts`: a student's routing, beside the base, Stage I and the clusters (docs/METHOD.md, 8)."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from padd_artifacts.artifact import Artifact, open_artifact
from padd_artifacts.errors import PaddError, UsageError
from padd_artifacts.manifest import Parent, file_parent
from padd_artifacts.plan import Plan
from padd_artifacts.writer import ArtifactWriter, Output
from padd_stages.analyze_experts.checkpoint_shift import expert_flow, shift_json
from padd_stages.analyze_experts.figures import CLUSTERS, TITLES, expert_figures
from padd_stages.analyze_experts.inputs import ModelOutline, check_comparable, outline, read_data
from padd_stages.analyze_experts.keyword_accuracy import classifier_json
from padd_stages.analyze_experts.model_analysis import ModelAnalysis, analyse_model
from padd_stages.analyze_experts.options import AnalyzeInputs, AnalyzeOptions
from padd_stages.analyze_experts.probe import TokenRoutes
from padd_stages.analyze_experts.samples import pick_samples
from padd_stages.analyze_experts.texts import Row, read_split, read_texts
from padd_stages.lib.data.subdomains import SUBDOMAINS
from padd_stages.lib.models.loading import model_parent
from padd_stages.lib.plots.style import save_figure
from padd_stages.lib.runtime.launcher import sharding_requested
from padd_stages.lib.runtime.processes import Processes, collective_forwards, start_processes
from padd_stages.lib.runtime.reporter import SILENT, Reporter

Floats = NDArray[np.float64]


def plan(inputs: AnalyzeInputs, options: AnalyzeOptions) -> Plan:
    """Open the models' configurations, the problems and the clusters."""
    parents = {role: model_parent(name) for role, name in _models(inputs).items()}
    rows = _rows(inputs, options)
    if inputs.problems is not None:
        parents["problems"] = file_parent(inputs.problems)
    elif inputs.split is not None:
        parents["split"] = open_artifact(inputs.split, "split").as_parent()
    clusters = None if inputs.clusters is None else _open_clusters(inputs.clusters)
    if clusters is not None:
        parents["clusters"] = clusters.as_parent()
    if inputs.teacher is not None:
        parents["teacher"] = model_parent(inputs.teacher)
        _check_teacher(parents["teacher"], clusters)
    return Plan("experts", options, parents, {"problems": len(rows), "models": len(_models(inputs))})


def run(
    inputs: AnalyzeInputs, options: AnalyzeOptions, output: Output, reporter: Reporter = SILENT
) -> Artifact:
    """Route the problems through every model named.

    Writes ``report.json``, ``routing.safetensors`` and ``samples.json``, which docs/METRICS.md explains, and figures.
    """
    output.check()
    plan_ = plan(inputs, options)
    with (
        start_processes(options.device, shards=sharding_requested()) as processes,
        collective_forwards(),
    ):
        own = reporter if processes.is_main else SILENT
        return _run(inputs, options, output, plan_, processes, own)


def _run(
    inputs: AnalyzeInputs,
    options: AnalyzeOptions,
    output: Output,
    plan_: Plan,
    processes: Processes,
    reporter: Reporter,
) -> Artifact:
    rows = _rows(inputs, options)
    with ArtifactWriter(output, plan_, writes=processes.is_main) as writer:
        outlines = {role: outline(role, name, rows, options) for role, name in _models(inputs).items()}
        check_comparable(outlines)
        student = outlines["student"]
        artifact = None if inputs.clusters is None else _open_clusters(inputs.clusters)
        clusters = None if artifact is None else _cluster_activations(artifact, student)
        data = read_data(
            rows, student, options, processes, teacher=inputs.teacher, clusters=artifact, reporter=reporter
        )
        models = {
            role: analyse_model(
                name,
                data,
                options,
                processes,
                title=TITLES[role],
                keep_routes=len(outlines) > 1,
                samples=pick_samples(name, rows) if role == "student" else [],
                reporter=reporter,
            )
            for role, name in _models(inputs).items()
        }
        if processes.is_main:
            report = _report(models, rows, data.left_out, clusters, options)
            _write(writer, report, _tensors(models, clusters), models["student"].samples, reporter)
    processes.barrier()  # for the process that writes
    return writer.artifact


def _write(
    writer: ArtifactWriter,
    report: dict[str, Any],
    tensors: dict[str, torch.Tensor],
    samples: dict[str, Any],
    reporter: Reporter,
) -> None:
    writer.write_json("samples.json", samples)
    writer.write_json("report.json", report)
    writer.write_tensors("routing.safetensors", tensors)
    reporter.phase("figures")
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    for name, figure in expert_figures(report, arrays).items():
        save_figure(figure, writer.path(f"figures/{name}.png"))
    writer.summary.update(_summary(report))
    if writer.summary["nmi"] is None:
        reporter.warn(
            "all text is of one subdomain, so NMI and ESI are undefined; give problems of several subdomains."
        )


def _models(inputs: AnalyzeInputs) -> dict[str, str]:
    """Return the models by role, base first."""
    named = {"base": inputs.base, "stage1": inputs.stage1, "student": inputs.student}
    return {role: name for role, name in named.items() if name is not None}


def _rows(inputs: AnalyzeInputs, options: AnalyzeOptions) -> list[Row]:
    """Read the problems: all, or a seeded sample in their own order."""
    if inputs.problems is not None:
        rows = read_texts(inputs.problems)
    elif inputs.split is not None:
        rows = read_split(open_artifact(inputs.split, "split"))
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


def _check_teacher(teacher: Parent, clusters: Artifact | None) -> None:
    if clusters is None:
        raise UsageError(
            "--teacher is given without --clusters, so nothing of it can be compared with experts; add --clusters."
        )
    made_for = clusters.manifest.parents["teacher"]
    if made_for.digest != teacher.digest:
        raise PaddError(
            f"{clusters.path} was made for teacher {made_for.path}, not for {teacher.path}, whose neurons are others; "
            "name that teacher, or leave --teacher out."
        )


def _open_clusters(path: Path) -> Artifact:
    clusters = open_artifact(path, "clusters")
    if "student_layers.safetensors" not in clusters.manifest.files:
        raise PaddError(
            f"{path} was made without a student, so its clusters belong to no expert and cannot be compared with any; "
            "run padd cluster with --student, or leave --clusters out."
        )
    return clusters


def _cluster_activations(clusters: Artifact, student: ModelOutline) -> Floats:
    """Read relative activations (L, S, N) of the clusters in expert order, S as SUBDOMAINS; NaN: no text."""
    tensors, names = clusters.tensors("student_layers.safetensors"), clusters.report["subdomains"]
    layers, experts = len(student.layers), student.experts
    result = np.full((layers, len(SUBDOMAINS), experts), np.nan)
    for m in range(layers):
        target = tensors.get(f"moe.{m}.target_subdomain")
        if target is None or tuple(target.shape) != (len(names), experts):
            found = "nothing" if target is None else f"a matrix of {tuple(target.shape)}"
            raise PaddError(
                f"{clusters.path} holds {found} for MoE layer {m} where {(len(names), experts)} is needed, so its "
                "clusters are not this student's; name the clusters artifact that was made for it."
            )
        for s, name in enumerate(names):
            result[m, SUBDOMAINS.index(name)] = target[s].double().numpy()
    return result


def _report(
    models: dict[str, ModelAnalysis],
    rows: Sequence[Row],
    left_out: int,
    clusters: Floats | None,
    options: AnalyzeOptions,
) -> dict[str, Any]:
    """Return all numbers: of the rows' labels, by model, and of each pair of models."""
    return {
        "subdomains": list(SUBDOMAINS),
        "classifier": classifier_json((row.problem, row.label) for row in rows),
        "shown_decoder_layer": _shown_layer(models["student"], options.layer),
        "models": {
            role: {"left_out": left_out, **model.as_json(clusters, options)} for role, model in models.items()
        },
        "shifts": [
            {"from": first, "to": second, **shift_json(old, new)}
            for first, second, old, new in _pairs(models)
        ],
    }


def _pairs(models: dict[str, ModelAnalysis]) -> Iterator[tuple[str, str, TokenRoutes, TokenRoutes]]:
    """Iterate over the pairs of models, the earlier one first, with the routes of the same tokens."""
    for (first, old), (second, new) in combinations(models.items(), 2):
        assert old.probe.routes is not None
        assert new.probe.routes is not None
        yield first, second, old.probe.routes, new.probe.routes


def _shown_layer(student: ModelAnalysis, decoder_layer: int | None) -> int:
    """Choose the decoder layer of the heatmaps: that of the options, else that of the student's highest NMI."""
    if decoder_layer is not None:
        return decoder_layer
    nmi = student.numbers.nmi
    return student.layers[0 if np.isnan(nmi).all() else int(np.nanargmax(nmi))]


def _tensors(models: dict[str, ModelAnalysis], clusters: Floats | None) -> dict[str, torch.Tensor]:
    """Return each model's tensors under its role; FROM.TO.flow (L, N, N); the clusters' activations (L, S, N) fp32."""
    tensors = {CLUSTERS: torch.from_numpy(clusters).float()} if clusters is not None else {}
    for role, model in models.items():
        tensors |= {f"{role}.{name}": tensor for name, tensor in model.tensors().items()}
    return tensors | {
        f"{first}.{second}.flow": expert_flow(old, new) for first, second, old, new in _pairs(models)
    }


def _summary(report: dict[str, Any]) -> dict[str, Any]:
    numbers = report["models"]["student"]
    return {
        "nmi": numbers["nmi"],
        "nmi_permutation_high": numbers["nmi_shuffled_tokens"]["high"],
        "nmi_problem_permutation_high": numbers["nmi_shuffled_problems"]["high"],
        "esi": numbers["esi"],
        "load_entropy": numbers["load_entropy"],
        "max_vio": numbers["max_vio"],
        "dead_experts": numbers["dead_experts"],
    }
