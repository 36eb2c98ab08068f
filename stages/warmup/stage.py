"""`padd warmup`: Stage I, second half: new router rows, then the experts are warmed up (docs/METHOD.md, section 3)."""

from typing import Any

import torch

from padd_artifacts.artifact import Artifact, open_artifact
from padd_artifacts.errors import PaddError, UsageError
from padd_artifacts.plan import Plan
from padd_artifacts.writer import ArtifactWriter, Output
from padd_stages.lib.grading.grader import Grader
from padd_stages.lib.models.expert_clusters import ExpertClusters
from padd_stages.lib.models.kernels import Kernels
from padd_stages.lib.models.loading import LanguageModel, model_parent
from padd_stages.lib.models.saving import save_model
from padd_stages.lib.models.teacher import Teacher
from padd_stages.lib.models.trained import (
    check_teacher_device,
    checkpoint_activations,
    is_mixed,
    load_teacher,
    load_trained,
)
from padd_stages.lib.options.shared import SHARD
from padd_stages.lib.runtime.checkpoints import FOLDER as CHECKPOINTS
from padd_stages.lib.runtime.launcher import sharding_requested
from padd_stages.lib.runtime.optimization import require_optimizer
from padd_stages.lib.runtime.processes import (
    Processes,
    check_divides,
    collective_forwards,
    start_processes,
)
from padd_stages.lib.runtime.reporter import SILENT, Reporter
from padd_stages.lib.runtime.seeds import generator_for, seed_everything
from padd_stages.lib.runtime.sharding import fill, gather_state
from padd_stages.lib.sampling.vllm import check_engine, engine_of
from padd_stages.warmup.held_out import HeldOut
from padd_stages.warmup.init_loss import init_term
from padd_stages.warmup.loop import WarmupLoop, choose_parameters
from padd_stages.warmup.options import WarmupInputs, WarmupOptions
from padd_stages.warmup.teacher_solutions import JOURNAL, teacher_solutions
from padd_stages.warmup.texts import WarmupItem, warmup_item, warmup_items


def plan(inputs: WarmupInputs, options: WarmupOptions) -> Plan:
    """Open the inputs and check that the clusters were made for this pair."""
    check_divides("--batch-size", options.batch_size)
    check_engine(options)
    if options.engine != "transformers" and options.warmup_text != "teacher":
        raise UsageError(
            f"--engine {options.engine} samples the teacher's solutions, and --warmup-text {options.warmup_text} needs "
            "none; take --warmup-text teacher, or leave it out."
        )
    require_optimizer(options.optimizer)
    split = open_artifact(inputs.split, "split")
    clusters = open_artifact(inputs.clusters, "clusters")
    parents = {
        "teacher": model_parent(inputs.teacher),
        "student": model_parent(inputs.student),
        "clusters": clusters.as_parent(),
        "split": split.as_parent(),
    }
    for role in ("teacher", "student"):
        made_for = clusters.manifest.parents.get(role)
        if made_for is None or made_for.digest != parents[role].digest:
            raise PaddError(
                f"{inputs.clusters} was made for {role} {made_for.path if made_for else 'none'}, not for "
                f"{parents[role].path}, so its router rows do not fit; run `padd cluster` for this pair."
            )
    sizes = {
        "rows": sum(1 for _ in split.file("b.jsonl").open(encoding="utf-8")),
        "steps": options.steps,
        "rows_per_step": options.batch_size,
    }
    return Plan("student", options, parents, sizes)


def run(
    inputs: WarmupInputs, options: WarmupOptions, output: Output, reporter: Reporter = SILENT
) -> Artifact:
    """Initialise the router, warm the experts up, and report on held-out rows before and after."""
    output.check()
    plan_ = plan(inputs, options)
    check_teacher_device(options.teacher_device)
    with start_processes(
        options.device,
        shards=sharding_requested(),
        mixed=is_mixed(inputs.student, options.dtype),
        lockstep=options.teacher_device == SHARD,
    ) as processes:
        return _run(inputs, options, plan_, output, processes, reporter if processes.is_main else SILENT)


def _run(
    inputs: WarmupInputs,
    options: WarmupOptions,
    plan_: Plan,
    output: Output,
    processes: Processes,
    reporter: Reporter,
) -> Artifact:
    seed_everything(options.seed)
    with (
        ArtifactWriter(output, plan_, writes=processes.is_main) as writer,
        Grader(workers=options.workers, time_limit=options.grading_limit) as grader,
        collective_forwards(),
    ):
        writer.scratch |= {CHECKPOINTS, JOURNAL}
        reporter.phase("loading the models")
        student, policy = load_trained(
            inputs.student,
            processes,
            options.dtype,
            choose=lambda loaded: choose_parameters(loaded, options),
            moe=True,
            kernels=Kernels.of(options),
        )
        if options.gradient_checkpointing:
            checkpoint_activations(student.model)
        policy.verify()
        teacher = load_teacher(inputs.teacher, student, processes, options)
        if (text := teacher.ends_note()) is not None:
            reporter.note(text)
        rows = open_artifact(inputs.split, "split", check=False).jsonl("b.jsonl")
        if options.warmup_text == "teacher":
            rows = teacher_solutions(
                rows,
                lambda row: warmup_item(row, student, teacher.language_model, options) is not None,
                _rows_read(len(rows), options),
                teacher,
                grader,
                writer,
                processes,
                options,
                reporter,
                engine_of(options, inputs.teacher),
            )
        items = warmup_items(rows, student, teacher.language_model, options)
        if options.alpha > 0 and (text := _masked(teacher, items)) is not None:
            reporter.warn(text)
        training, held_out = _hold_out(items, options)
        clusters = open_artifact(inputs.clusters, "clusters", check=False)
        expert_clusters = ExpertClusters.from_artifact(clusters)
        measure = HeldOut(policy, student, teacher, expert_clusters, held_out, grader, processes, options)
        report: dict[str, Any] = {"rows": len(training), "held_out_rows": len(held_out)}
        reporter.phase("held-out rows: the base")
        report["base"] = measure.report()
        _initialise_router(student, clusters)
        reporter.phase("held-out rows: with the new router")
        report["before"] = measure.report()
        init = init_term(clusters, expert_clusters, processes, options)
        loop = WarmupLoop(policy, student, teacher, training, init, processes, options, reporter)
        loop.run(writer, resume=output.resume)
        reporter.phase("held-out rows: after warmup")
        report["after"] = measure.report()
        _write_result(student, report, processes, writer)
    processes.barrier()  # for the process that writes
    return writer.artifact


def _write_result(
    student: LanguageModel, report: dict[str, Any], processes: Processes, writer: ArtifactWriter
) -> None:
    """Write the student and the report, in one process; a sharded student is gathered there."""
    state = None
    if processes.fsdp:
        state = gather_state(student.model, keep=processes.is_main, dtypes=student.dtypes)
    if processes.is_main:
        save_model(writer.folder, student, state)
        writer.write_json("report.json", report)
        writer.summary.update(_summary(report))


def _masked(teacher: Teacher, items: list[WarmupItem]) -> str | None:
    """Return a warning about tokens that the teacher cannot read."""
    return teacher.check_compared(
        *teacher.shares([item.sequence for item in items], [item.teacher_prompt for item in items])
    )


def _rows_read(rows: int, options: WarmupOptions) -> int:
    """Return how many rows all steps and the held-out report read."""
    return options.steps * options.batch_size + min(
        max(int(rows * options.held_out), 1), options.max_held_out
    )


def _hold_out(items: list[WarmupItem], options: WarmupOptions) -> tuple[list[WarmupItem], list[WarmupItem]]:
    count = min(max(int(len(items) * options.held_out), 1), options.max_held_out)
    order = generator_for(options.seed, "held-out").permutation(len(items)).tolist()
    return [items[i] for i in sorted(order[count:])], [items[i] for i in sorted(order[:count])]


@torch.no_grad()
def _initialise_router(student: LanguageModel, clusters: Artifact) -> None:
    """Copy the clusters' router rows into the student."""
    assert student.adapter is not None  # load_model(moe=True) refuses a dense student
    tensors = clusters.tensors("student_layers.safetensors")
    for m in range(student.adapter.num_layers):
        fill(student.adapter.router_weight(m), tensors[f"moe.{m}.router_rows"])


def _summary(report: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers under the student's own routing: the base, with the new router, after warmup."""
    return {
        f"{name}_{when}": report[when]["topk"][name]
        for name in ("loss", "accuracy", "nmi")
        for when in ("base", "before", "after")
    }
