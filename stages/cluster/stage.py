"""``cluster``: balanced clusters of teacher neurons, and the router they give a student (docs/METHOD.md, 2)."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from padd_artifacts.artifact import Artifact, open_artifact
from padd_artifacts.errors import PaddError, UsageError
from padd_artifacts.plan import Plan
from padd_artifacts.writer import ArtifactWriter, Output
from padd_stages.cluster.aligned_texts import AlignedText, read_texts
from padd_stages.cluster.layer_clusters import LayerClusters, LayerJobs
from padd_stages.cluster.models import load_student, load_teacher
from padd_stages.cluster.options import ClusterInputs, ClusterOptions
from padd_stages.cluster.pair_statistics import LayerLink, ModelPair, write_profiles
from padd_stages.cluster.quality import verdict
from padd_stages.cluster.router import StudentRouter, make_router
from padd_stages.lib.data.sequences import hold_out
from padd_stages.lib.models.ffn import FFNReader, ffn_sizes
from padd_stages.lib.models.frozen import FrozenModel
from padd_stages.lib.models.loading import (
    LanguageModel,
    load_config,
    load_meta_model,
    model_folder,
    model_parent,
)
from padd_stages.lib.models.trained import check_teacher_device
from padd_stages.lib.options.shared import SHARD
from padd_stages.lib.runtime.launcher import sharding_requested
from padd_stages.lib.runtime.processes import Processes, collective_forwards, start_processes
from padd_stages.lib.runtime.reporter import SILENT, Reporter

KIND = "clusters"
# Work in progress, gone when the artifact is whole: finished layers, and activations that neurons are compared by.
RESULTS = "layers"
PROFILES = "profiles"
# How families call the number of routed experts in their configuration.
EXPERT_COUNT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts")


def plan(inputs: ClusterInputs, options: ClusterOptions) -> Plan:
    """Open the inputs and check that they go together; ``sizes`` has clusters, neurons and texts.

    Raises:
        UsageError: a student without a split or a split without a use, no number of clusters.
        PaddError: a model that is not there or not dense, an N that does not fit the teacher or the student.
    """
    _check_inputs(inputs, options)
    clusters = _cluster_count(inputs, options)
    parents = {"teacher": model_parent(inputs.teacher)}
    sizes: dict[str, Any] = {"clusters": clusters}
    layers, neurons = ffn_sizes(load_meta_model(inputs.teacher))
    _check_width(neurons, clusters, options)
    sizes |= {"teacher layers": layers, "neurons per layer": neurons}
    if inputs.student is not None:
        parents["student"] = model_parent(inputs.student)
    if inputs.split is not None:
        split = open_artifact(inputs.split, "split")
        parents["split"] = split.as_parent()
        sizes["texts of D_A"] = sum(1 for _ in split.file("a.jsonl").open(encoding="utf-8"))
    return Plan(KIND, options, parents, sizes)


def run(
    inputs: ClusterInputs, options: ClusterOptions, output: Output, reporter: Reporter = SILENT
) -> Artifact:
    """Write teacher_layers.safetensors and report.json; with a student also student_layers.safetensors.

    Each layer's clusters go to disk when they are found; a resumed run continues with the layers that are missing.

    Raises:
        PaddError: as :func:`plan`; weights that cannot be read, a D_A of fewer than two texts.
    """
    output.check()
    check_teacher_device(options.teacher_device)
    resolved = plan(inputs, options)
    lockstep = options.teacher_device == SHARD
    with (
        start_processes(options.device, shards=sharding_requested(), lockstep=lockstep) as processes,
        collective_forwards(),
    ):
        return _run(inputs, options, output, resolved, processes, reporter if processes.is_main else SILENT)


def _run(
    inputs: ClusterInputs,
    options: ClusterOptions,
    output: Output,
    resolved: Plan,
    processes: Processes,
    reporter: Reporter,
) -> Artifact:
    clusters = int(resolved.sizes["clusters"])
    reader = FFNReader(model_folder(inputs.teacher))
    if reader.width % clusters:
        reporter.note(f"{reader.width} neurons in {clusters} clusters: sizes differ by one")
    with ArtifactWriter(output, resolved, writes=processes.is_main) as writer:
        writer.scratch |= {RESULTS, PROFILES}
        student = load_student(inputs, options, processes)
        teacher = load_teacher(inputs, options, processes)
        links = _links(student.loaded, reader.num_layers) if student is not None else []
        layers = sorted({link.teacher for link in links}) if links else list(range(reader.num_layers))
        texts = _read_texts(inputs, options, teacher, student) if teacher is not None else []
        jobs = _layer_jobs(inputs, options, clusters, writer)
        layer_clusters = _cluster_layers(jobs, layers, teacher, texts, writer, processes, reporter)
        router = None
        if teacher is not None and student is not None:
            assignments = {layer: result.assignment for layer, result in layer_clusters.items()}
            pair = ModelPair(teacher, student, assignments, options.seed)
            router = make_router(pair, links, layer_clusters, texts, options, reporter)
        if processes.is_main:
            _write(writer, jobs, layer_clusters, router)
    processes.barrier()  # for the process that writes
    return writer.artifact


def _write(
    writer: ArtifactWriter,
    jobs: LayerJobs,
    layer_clusters: Mapping[int, LayerClusters],
    router: StudentRouter | None,
) -> None:
    writer.write_tensors("teacher_layers.safetensors", _teacher_tensors(layer_clusters))
    report, summary = _teacher_report(layer_clusters, jobs)
    if router is not None:
        writer.write_tensors("student_layers.safetensors", router.tensors)
        report |= router.report
        for layer, numbers in router.selectivity.items():
            report["teacher_layers"][layer] |= numbers
        summary |= router.summary
    writer.write_json("report.json", report)
    seconds = {str(layer): result.seconds for layer, result in layer_clusters.items()}
    writer.write_json("timing.json", seconds, volatile=True)
    writer.summary.update(summary)


def _check_inputs(inputs: ClusterInputs, options: ClusterOptions) -> None:
    if inputs.student is not None and inputs.split is None:
        raise UsageError(
            f"--student {inputs.student} is given without --split, so there are no texts to make its router from; add "
            "--split, or give --clusters N alone to cluster the teacher."
        )
    if inputs.split is not None and inputs.student is None and options.features == "weights":
        raise UsageError(
            f"--split {inputs.split} is given without --student, and clusters of weights read no texts; add --student, "
            "take --features coactivation, or leave --split out."
        )
    if options.features == "coactivation" and inputs.split is None:
        raise UsageError(
            "--features coactivation compares neurons by their activations on D_A and no --split is given, so there is "
            "nothing to compare; add --split."
        )


def _cluster_count(inputs: ClusterInputs, options: ClusterOptions) -> int:
    if inputs.student is None:
        if options.clusters is None:
            raise UsageError(
                "neither --clusters nor --student is given, so the number of clusters is not known; give one of them."
            )
        return options.clusters
    _, config = load_config(inputs.student)
    text = config.get_text_config()
    experts = next((int(n) for key in EXPERT_COUNT_KEYS if (n := getattr(text, key, None))), None)
    if experts is None:
        raise PaddError(
            f"{inputs.student} ({config.model_type}) names no number of experts ({', '.join(EXPERT_COUNT_KEYS)}), "
            "so it cannot be the student; give a mixture-of-experts model."
        )
    if options.clusters not in (None, experts):
        raise PaddError(
            f"--clusters is {options.clusters} and {inputs.student} has {experts} routed experts, so clusters and "
            "experts do not pair up; leave --clusters out."
        )
    return experts


def _check_width(neurons: int, clusters: int, options: ClusterOptions) -> None:
    if clusters > neurons:
        raise PaddError(
            f"the teacher's FFN has {neurons} neurons, which cannot form {clusters} clusters; ask for fewer "
            "clusters or take a wider teacher."
        )
    if options.strict_sizes and neurons % clusters:
        raise PaddError(
            f"{neurons} neurons do not divide into {clusters} equal clusters and --strict-sizes asks for that; "
            "leave it out to let sizes differ by one."
        )


def _links(student: LanguageModel, teacher_layers: int) -> list[LayerLink]:
    """Link layers: student layer l, counted over all its layers, reads teacher layer floor(l * L_T / L_S)."""
    assert student.adapter is not None
    student_layers = int(student.model.config.get_text_config().num_hidden_layers)
    return [
        LayerLink(layer.index, layer.layer_index, layer.layer_index * teacher_layers // student_layers)
        for layer in student.adapter.layers
    ]


def _read_texts(
    inputs: ClusterInputs, options: ClusterOptions, teacher: FrozenModel, student: FrozenModel | None
) -> list[AlignedText]:
    assert inputs.split is not None
    first, second = teacher.loaded, (student or teacher).loaded
    return read_texts(
        open_artifact(inputs.split, "split", check=False).jsonl("a.jsonl"),
        first.tokenizer,
        second.tokenizer,
        seed=options.seed,
        max_tokens=options.max_tokens,
        max_lengths=(
            min(options.max_length, first.max_positions),
            min(options.max_length, second.max_positions),
        ),
    )


def _layer_jobs(
    inputs: ClusterInputs, options: ClusterOptions, clusters: int, writer: ArtifactWriter
) -> LayerJobs:
    features = options.features or ("weights" if inputs.split is None else "coactivation")
    profiles = writer.path(PROFILES) if features == "coactivation" else None
    return LayerJobs(model_folder(inputs.teacher), writer.path(RESULTS), clusters, options, profiles)


def _cluster_layers(
    jobs: LayerJobs,
    layers: Sequence[int],
    teacher: FrozenModel | None,
    texts: list[AlignedText],
    writer: ArtifactWriter,
    processes: Processes,
    reporter: Reporter,
) -> dict[int, LayerClusters]:
    """Cluster every layer, each process its share; those that an interrupted run finished are reused."""
    there = [LayerClusters.load(jobs.results, layer) is not None for layer in layers]
    there = processes.gather(there)[0]  # before one of them is made
    missing = [layer for layer, found in zip(layers, there, strict=True) if not found]
    if jobs.profiles is not None and missing:
        assert teacher is not None
        reporter.phase("neuron activations")
        kept, _ = hold_out(texts, jobs.options.held_out)
        folder = jobs.profiles if processes.is_main else None
        write_profiles(teacher, kept, missing, jobs.options.coactivation_tokens, folder)
        processes.barrier()
    reporter.phase("clustering teacher layers", total=len(layers))
    reporter.advance(len(layers) - len(missing))
    if processes.is_main and processes.world > 1:
        writer.keep()  # another process may be the first that has something to go on from
    for layer in jobs.run(processes.deal(missing)):
        writer.keep()
        reporter.advance(line=_line(jobs, layer))
    processes.barrier()
    for layer in missing:
        if layer not in processes.deal(missing):
            reporter.advance(line=_line(jobs, layer))
    layer_clusters = {layer: LayerClusters.load(jobs.results, layer) for layer in layers}
    return {layer: result for layer, result in layer_clusters.items() if result is not None}


def _line(jobs: LayerJobs, layer: int) -> str:
    result = LayerClusters.load(jobs.results, layer)
    assert result is not None
    return f"layer {layer}: {result.quality.verdict}"


def _teacher_tensors(layer_clusters: Mapping[int, LayerClusters]) -> dict[str, Tensor]:
    tensors = {}
    for layer, result in layer_clusters.items():
        tensors[f"layer.{layer}.assignment"] = torch.from_numpy(result.assignment)
        tensors[f"layer.{layer}.centroids"] = torch.from_numpy(result.centroids)
    return tensors


def _teacher_report(
    layer_clusters: Mapping[int, LayerClusters], jobs: LayerJobs
) -> tuple[dict[str, Any], dict[str, Any]]:
    qualities = [result.quality for result in layer_clusters.values()]
    explained, chance = fmean(q.explained for q in qualities), fmean(q.random_mean for q in qualities)
    report = {
        "clusters": jobs.clusters,
        "features": "weights" if jobs.profiles is None else "coactivation",
        "assign": jobs.options.assign,
        "verdict": verdict(explained, chance, fmean(q.random_spread for q in qualities)),
        "uneven_sizes": any(q.smallest != q.largest for q in qualities),
        "teacher_layers": {
            str(layer): result.quality.as_json()
            | {"iterations": result.iterations, "selectivity": None, "selectivity_random": None}
            for layer, result in layer_clusters.items()
        },
    }
    summary = {
        "teacher_layers": len(layer_clusters),
        "clusters": jobs.clusters,
        "variance_explained": round(explained, 6),
        "variance_explained_random": round(chance, 6),
    }
    return report, summary
