"""`padd warmup`: Stage I, second half: new router rows, then the experts are warmed up (docs/METHOD.md, section 3)."""

from typing import Any

import torch

from padd_artifacts.artifact import Artifact, open_artifact
from padd_artifacts.errors import PaddError
from padd_artifacts.plan import Plan
from padd_artifacts.writer import ArtifactWriter, Output
from padd_stages.lib.grading.grader import Grader
from padd_stages.lib.models.expert_clusters import ExpertClusters
from padd_stages.lib.models.loading import LanguageModel, load_model, model_parent
from padd_stages.lib.models.policy import Policy
from padd_stages.lib.models.saving import save_model
from padd_stages.lib.models.teacher import Teacher
from padd_stages.lib.runtime.checkpoints import FOLDER as CHECKPOINTS
from padd_stages.lib.runtime.devices import pick_device
from padd_stages.lib.runtime.reporter import SILENT, Reporter
from padd_stages.lib.runtime.seeds import generator_for, seed_everything
from padd_stages.warmup.held_out import HeldOut
from padd_stages.warmup.init_loss import init_term
from padd_stages.warmup.loop import WarmupLoop
from padd_stages.warmup.options import WarmupInputs, WarmupOptions
from padd_stages.warmup.texts import WarmupItem, warmup_items


def plan(inputs: WarmupInputs, options: WarmupOptions) -> Plan:
    """Open the inputs and check that the clusters were made for this pair."""
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
    device = pick_device(options.device)
    teacher_device = pick_device(options.teacher_device or device, "--teacher-device")
    seed_everything(options.seed)
    with (
        ArtifactWriter(output, plan_) as writer,
        Grader(workers=options.workers, time_limit=options.grading_limit) as grader,
    ):
        writer.scratch.add(CHECKPOINTS)
        reporter.phase("loading the models")
        student = load_model(inputs.student, dtype=options.dtype, device=device, moe=True)
        dense = load_model(inputs.teacher, dtype=options.dtype, device=teacher_device, moe=False)
        teacher = Teacher(dense, student)
        rows = open_artifact(inputs.split, "split", check=False).jsonl("b.jsonl")
        items = warmup_items(rows, student, teacher.language_model, grader, options)
        training, held_out = _hold_out(items, options)
        clusters = open_artifact(inputs.clusters, "clusters", check=False)
        expert_clusters = ExpertClusters.from_artifact(clusters)
        policy = Policy(student.model)
        policy.verify()
        measure = HeldOut(policy, student, teacher, expert_clusters, held_out, grader, options)
        report: dict[str, Any] = {"rows": len(training), "held_out_rows": len(held_out)}
        reporter.phase("held-out rows: the base")
        report["base"] = measure.report()
        _initialise_router(student, clusters)
        reporter.phase("held-out rows: with the new router")
        report["before"] = measure.report()
        init = init_term(clusters, expert_clusters, options)
        loop = WarmupLoop(policy, student, teacher, training, init, options, reporter)
        loop.run(writer, resume=output.resume)
        reporter.phase("held-out rows: after warmup")
        report["after"] = measure.report()
        save_model(writer.folder, student)
        writer.write_json("report.json", report)
        writer.summary.update(_summary(report))
    return writer.artifact


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
        weight = student.adapter.router_weight(m)
        weight.copy_(tensors[f"moe.{m}.router_rows"].to(weight))


def _summary(report: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers under the student's own routing: the base, with the new router, after warmup."""
    return {
        f"{name}_{when}": report[when]["topk"][name]
        for name in ("loss", "accuracy", "nmi")
        for when in ("base", "before", "after")
    }
