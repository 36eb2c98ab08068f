"""`padd warmup`: Stage I, second half: new router rows, then the experts are warmed up (docs/METHOD.md, section 3)."""

from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from padd_artifacts.artifact import Artifact, open_artifact
from padd_artifacts.errors import PaddError
from padd_artifacts.plan import Plan
from padd_artifacts.writer import ArtifactWriter, Output
from padd_stages.data.grading import Grader
from padd_stages.data.sequences import TokenBatch, collate, micro_batches
from padd_stages.engine.expert_init import ExpertActivations, routing_at
from padd_stages.engine.held_out import held_out_report
from padd_stages.engine.passes import token_logprobs
from padd_stages.engine.warmup_text import WarmupItem, warmup_items
from padd_stages.models.loading import LanguageModel, load_model, model_parent, save_model
from padd_stages.models.moe import MoEAdapter
from padd_stages.models.policy import Head, Policy
from padd_stages.models.teaching import Teacher
from padd_stages.options.warmup import WarmupInputs, WarmupOptions
from padd_stages.runtime.checkpoints import load_checkpoint, remove_checkpoints, save_checkpoint
from padd_stages.runtime.devices import pick_device
from padd_stages.runtime.metrics import append_jsonl, finite
from padd_stages.runtime.optimization import UpdateGuard, learning_rate_at, make_optimizer
from padd_stages.runtime.reporter import SILENT, Reporter
from padd_stages.runtime.seeds import generator_for, rows_at, seed_everything

METRICS = "metrics.jsonl"


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
    """Initialise the router, warm the experts up, and report held-out loss and accuracy before and after."""
    output.check()
    plan_ = plan(inputs, options)
    device = pick_device(options.device)
    seed_everything(options.seed)
    with (
        ArtifactWriter(output, plan_) as writer,
        Grader(workers=options.workers, time_limit=options.grading_limit) as grader,
    ):
        reporter.phase("loading the models")
        student = load_model(inputs.student, dtype=options.dtype, device=device, moe=True)
        teacher = Teacher(load_model(inputs.teacher, dtype=options.dtype, device=device, moe=False), student)
        rows = open_artifact(inputs.split, "split", check=False).jsonl("b.jsonl")
        items = warmup_items(rows, student, teacher.language_model, grader, options)
        training, held_out = _hold_out(items, options)
        policy = Policy(student.model)
        policy.verify()

        def measure(name: str) -> dict[str, dict[str, float]]:
            reporter.phase(f"held-out loss and accuracy {name}")
            sequences = [item.sequence for item in held_out]
            return held_out_report(policy, student, [i.row for i in held_out], sequences, grader, options)

        report: dict[str, Any] = {
            "rows": len(training),
            "held_out_rows": len(held_out),
            "base": measure("of the base"),
        }
        target, xi = _initialise_router(student, open_artifact(inputs.clusters, "clusters", check=False))
        report["before"] = measure("with the new router")
        loop = _Loop(policy, student, teacher, training, target, xi, options, reporter)
        loop.run(writer, resume=output.resume)
        report["after"] = measure("after warmup")
        remove_checkpoints(writer.folder)
        save_model(writer.folder, student)
        writer.write_json("report.json", report)
        writer.summary.update(_summary(report))
    return writer.artifact


def _hold_out(items: list[WarmupItem], options: WarmupOptions) -> tuple[list[WarmupItem], list[WarmupItem]]:
    count = min(max(int(len(items) * options.held_out), 1), options.max_held_out)
    order = generator_for(options.seed, "held-out").permutation(len(items)).tolist()
    return [items[i] for i in sorted(order[count:])], [items[i] for i in sorted(order[:count])]


@torch.no_grad()
def _initialise_router(student: LanguageModel, clusters: Artifact) -> tuple[Tensor, float]:
    """Copy the clusters' router rows into the student; returns the targets p_T (L, N) and their xi."""
    adapter = _adapter(student)
    tensors = clusters.tensors("student_layers.safetensors")
    for m in range(adapter.num_layers):
        weight = adapter.router_weight(m)
        weight.copy_(tensors[f"moe.{m}.router_rows"].to(weight))
    target = torch.stack([tensors[f"moe.{m}.target"] for m in range(adapter.num_layers)])
    return target, float(clusters.manifest.options["xi"])


def _adapter(student: LanguageModel) -> MoEAdapter:
    assert student.adapter is not None  # load_model(moe=True) refuses a dense student
    return student.adapter


def _summary(report: dict[str, Any]) -> dict[str, Any]:
    """Loss and accuracy under the student's own routing: the base, with the new router, after warmup."""
    return {
        f"{name}_{when}": report[when]["topk"][name]
        for name in ("loss", "accuracy")
        for when in ("base", "before", "after")
    }


class _Loop:
    """Optimizer steps on L_LM + alpha L_KD + beta L_init; each term divided by its own constant of the whole batch."""

    def __init__(
        self,
        policy: Policy,
        student: LanguageModel,
        teacher: Teacher,
        items: list[WarmupItem],
        target: Tensor,
        xi: float,
        options: WarmupOptions,
        reporter: Reporter,
    ) -> None:
        self.policy, self.student, self.teacher, self.items = policy, student, teacher, items
        self.options, self.reporter = options, reporter
        self.device = policy.head.weight.device
        adapter = _adapter(student)
        chosen = adapter.expert_parameters() if options.trainable == "experts" else list(policy.parameters())
        routers = {id(parameter) for parameter in adapter.router_parameters()}
        policy.requires_grad_(False)
        for parameter in chosen:
            parameter.requires_grad_(id(parameter) not in routers)
        self.parameters: dict[str, nn.Parameter] = {
            name: p for name, p in student.model.named_parameters() if p.requires_grad
        }
        self.optimizer = make_optimizer(
            self.parameters.values(), learning_rate=options.learning_rate, weight_decay=options.weight_decay
        )
        self.guard = UpdateGuard(self.optimizer, options.max_grad_norm)
        self.activations = ExpertActivations(adapter, target, xi=xi, rate=options.init_ema)

    def run(self, writer: ArtifactWriter, *, resume: bool) -> None:
        """All steps, from the last checkpoint if ``resume``."""
        options, folder = self.options, writer.folder
        first = self._restore(folder, writer.plan.key) if resume else 0
        self.reporter.phase("warmup", options.steps)
        self.reporter.advance(first)
        for step in range(first, options.steps):
            metrics = self._step(step)
            append_jsonl(folder / METRICS, [finite({"step": step + 1} | metrics)])
            self.reporter.advance(
                1, " ".join(f"{k} {v:.4g}" for k, v in metrics.items() if k.startswith("loss"))
            )
            if options.checkpoint_every and (step + 1) % options.checkpoint_every == 0:
                self._save(folder, writer.plan.key, step + 1)
                writer.keep()

    def _step(self, step: int) -> dict[str, float]:
        options = self.options
        chosen = [
            self.items[i]
            for i in rows_at(options.seed, step * options.batch_size, options.batch_size, len(self.items))
        ]
        groups = micro_batches([len(item.sequence) for item in chosen], options.micro_batch_tokens)
        tokens = sum(len(item.sequence) for item in chosen)
        targets = sum(len(item.sequence.response_ids) for item in chosen)
        comparable = self.teacher.count_comparable(
            [i.sequence for i in chosen], [i.teacher_prompt for i in chosen]
        )
        sums: dict[str, float] = defaultdict(float)
        progress = step / max(options.steps - 1, 1)
        if options.beta > 0 and not self.activations.seen:
            self._measure_activations(chosen, groups, tokens, progress)
        for members in groups:
            items = [chosen[i] for i in members]
            self._micro_step(items, targets, comparable, tokens, progress, sums)
        self.activations.close_batch(tokens)
        rate = learning_rate_at(
            step,
            steps=options.steps,
            peak=options.learning_rate,
            warmup_steps=options.lr_warmup_steps,
            schedule=options.lr_schedule,
        )
        norm = self.guard.step(rate)
        return {**sums, "grad_norm": float(norm), "learning_rate": rate}

    def _micro_step(
        self,
        items: list[WarmupItem],
        targets: int,
        comparable: int,
        tokens: int,
        progress: float,
        sums: dict[str, float],
    ) -> None:
        """Forward and backward of one micro-batch; the three counts are of the whole batch."""
        options = self.options
        sequences = [item.sequence for item in items]
        batch = collate(sequences, self.student.pad_id, self.device)
        states = None
        if options.alpha > 0:
            states = self.teacher.read(sequences, [item.teacher_prompt for item in items])

        def compute(hidden: Tensor, head: Head) -> tuple[Tensor, Tensor]:
            logprobs, _ = token_logprobs(hidden, head, batch, 1.0)
            if states is None:
                return -logprobs.sum() / targets, hidden.new_zeros(())
            tau = torch.full_like(logprobs, options.tau, dtype=torch.float32)
            # times tau^2, so that gradients do not shrink with the temperature (docs/METHOD.md, section 3)
            kd, _ = self.teacher.kl(
                hidden,
                head,
                states,
                weight=torch.full_like(tau, options.tau**2 / max(comparable, 1)),
                tau_teacher=tau,
                tau_student=tau,
                direction="forward",
            )
            return -logprobs.sum() / targets, kd

        (lm, kd), init, init_kl = self._forward(batch, compute, tokens, progress)
        loss = lm + options.alpha * kd + options.beta * init
        loss.backward()
        sums["loss/lm"] += float(lm.detach())
        sums["loss/kd"] += float(kd.detach())
        if options.beta > 0:
            sums["loss/init"] = init_kl

    def _forward(
        self, batch: TokenBatch, compute: Any, tokens: int, progress: float
    ) -> tuple[tuple[Tensor, Tensor], Tensor, float]:
        adapter, options = _adapter(self.student), self.options
        arguments = (batch.input_ids, batch.attention_mask, batch.select, compute)
        with ExitStack() as stack:
            stack.enter_context(routing_at(adapter, options.warmup_routing, progress))
            if options.beta == 0:
                losses = self.policy(*arguments)
                return losses, losses[0].new_zeros(()), 0.0
            trace = stack.enter_context(adapter.trace(activations=True, grad=True))
            losses = self.policy(*arguments)
            activation_sums, counts = self.activations.sums(trace, batch.attention_mask)
        self.activations.add(activation_sums, counts)
        init, init_kl = self.activations.loss(activation_sums, tokens)
        return losses, init, float(init_kl.mean())

    @torch.no_grad()
    def _measure_activations(
        self, chosen: list[WarmupItem], groups: list[list[int]], tokens: int, progress: float
    ) -> None:
        """The running mean starts from the first batch, measured before any update."""
        adapter = _adapter(self.student)
        for members in groups:
            batch = collate([chosen[i].sequence for i in members], self.student.pad_id, self.device)
            with (
                routing_at(adapter, self.options.warmup_routing, progress),
                adapter.trace(activations=True) as trace,
            ):
                self.policy(batch.input_ids, batch.attention_mask, batch.select, lambda hidden, _: hidden)
            self.activations.add(*self.activations.sums(trace, batch.attention_mask))
        self.activations.close_batch(tokens)

    def _save(self, folder: Path, key: str, step: int) -> None:
        save_checkpoint(
            folder,
            step,
            parameters=self.parameters,
            tensors=self.activations.state(),
            optimizer=self.optimizer,
            state={"key": key, "skipped": self.guard.skipped, "broken_in_a_row": self.guard.broken_in_a_row},
            logs=[METRICS],
            keep=1,
        )

    def _restore(self, folder: Path, key: str) -> int:
        step, state, tensors = load_checkpoint(
            folder, parameters=self.parameters, optimizer=self.optimizer, key=key
        )
        self.activations.restore(tensors)
        self.guard.skipped, self.guard.broken_in_a_row = state["skipped"], state["broken_in_a_row"]
        return step
