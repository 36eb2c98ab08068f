"""Optimizer steps of warmup: L_LM + alpha L_KD + beta L_init (docs/METHOD.md, section 3)."""

from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor

from padd_artifacts.writer import ArtifactWriter
from padd_stages.lib.data.sequences import TokenBatch, collate, micro_batches
from padd_stages.lib.models.loading import LanguageModel
from padd_stages.lib.models.policy import Head, Policy, token_logprobs
from padd_stages.lib.models.teacher import Teacher, TeacherStates
from padd_stages.lib.models.trained import use_checkpoints
from padd_stages.lib.objectives.language import next_token_loss
from padd_stages.lib.runtime.checkpoints import has_checkpoint, load_checkpoint, save_checkpoint
from padd_stages.lib.runtime.metrics_log import METRICS, append_jsonl, finite
from padd_stages.lib.runtime.optimization import UpdateGuard, learning_rate_at, make_optimizer
from padd_stages.lib.runtime.processes import Processes
from padd_stages.lib.runtime.profiling import profiling
from padd_stages.lib.runtime.reporter import Reporter
from padd_stages.lib.runtime.seeds import rows_at
from padd_stages.warmup.init_loss import DatasetInit, TokenInit, routing_at
from padd_stages.warmup.options import WarmupOptions
from padd_stages.warmup.texts import BatchTotals, WarmupItem


class WarmupLoop:
    """Warmup loop; each term is divided by its own constant of the whole batch, so micro-batches add up exactly."""

    def __init__(
        self,
        policy: Policy,
        student: LanguageModel,
        teacher: Teacher,
        items: list[WarmupItem],
        init: DatasetInit | TokenInit | None,
        processes: Processes,
        options: WarmupOptions,
        reporter: Reporter,
    ) -> None:
        assert student.adapter is not None
        self.processes = processes
        self.policy, self.student, self.teacher, self.items = policy, student, teacher, items
        self.adapter, self.init, self.options, self.reporter = student.adapter, init, options, reporter
        self.parameters = {n: p for n, p in student.model.named_parameters() if p.requires_grad}
        self.optimizer = make_optimizer(
            self.parameters.values(),
            learning_rate=options.learning_rate,
            weight_decay=options.weight_decay,
            name=options.optimizer,
        )
        self.guard = UpdateGuard(self.optimizer, options.max_grad_norm, processes)

    def run(self, writer: ArtifactWriter, *, resume: bool) -> None:
        """Run all steps, from the last checkpoint if ``resume``."""
        options, folder = self.options, writer.folder
        first = self._restore(folder) if resume and has_checkpoint(folder) else 0
        if not first and self.processes.is_main:
            (folder / METRICS).unlink(missing_ok=True)  # of a run that was killed before its first checkpoint
        self.reporter.phase("warmup", options.steps)
        self.reporter.advance(first)
        with profiling(options.profile, writer, self.processes, self.reporter) as step_done:
            for step in range(first, options.steps):
                metrics = self._step(step)
                if self.processes.is_main:
                    append_jsonl(folder / METRICS, [finite({"step": step + 1} | metrics)])
                self.reporter.advance(
                    1, " ".join(f"{k} {v:.4g}" for k, v in metrics.items() if k.startswith("loss"))
                )
                if options.checkpoint_every and (step + 1) % options.checkpoint_every == 0:
                    self._save(folder, step + 1)
                    if self.processes.is_main:
                        writer.keep()
                step_done()

    def _step(self, step: int) -> dict[str, float]:
        options = self.options
        places = rows_at(options.seed, step * options.batch_size, options.batch_size, len(self.items))
        chosen = [self.items[i] for i in places]
        progress = step / max(options.steps - 1, 1)
        sums = self.accumulate(chosen, progress)
        rate = learning_rate_at(
            step,
            steps=options.steps,
            peak=options.learning_rate,
            warmup_steps=options.lr_warmup_steps,
            schedule=options.lr_schedule,
        )
        return sums | self.guard.step(rate)

    def accumulate(self, chosen: list[WarmupItem], progress: float) -> dict[str, float]:
        """Add the gradients of a batch, in micro-batches; ``progress`` runs from 0 to 1.

        Returns:
            The terms of the loss: loss/lm, loss/kd, loss/init.
        """
        totals = BatchTotals(
            sum(len(item.sequence) for item in chosen),
            sum(len(item.sequence.response_ids) for item in chosen),
            self.teacher.count_comparable(
                [item.sequence for item in chosen], [item.teacher_prompt for item in chosen]
            ),
        )
        own = self.processes.share(chosen)
        cut = micro_batches([len(item.sequence) for item in own], self.options.micro_batch_tokens)
        groups = [[own[i] for i in members] for members in self.processes.equal_batches(cut)]
        if isinstance(self.init, DatasetInit) and not self.init.seen:
            self._start_mean(self.init, groups, totals, progress)
        if self.options.gradient_checkpointing:
            use_checkpoints(self.student.model)
        parts: dict[str, float] = defaultdict(float)
        for items in groups:
            self._micro_step(items, totals, progress, parts)
        self.processes.sum_gradients(self.parameters.values())
        sums = {name: float(value) for name, value in self.processes.sum_each(parts).items()}
        if self.init is not None:
            sums["loss/init"] = self.init.close_batch(totals)
        return sums

    def _micro_step(
        self, items: list[WarmupItem], totals: BatchTotals, progress: float, sums: dict[str, float]
    ) -> None:
        """Run forward and backward of one micro-batch."""
        options, init = self.options, self.init
        batch, states = self._collate(items), self._teacher_states(items)

        def compute(hidden: Tensor, head: Head) -> tuple[Tensor, Tensor]:
            logprobs, _ = token_logprobs(hidden, head, batch, 1.0)
            loss, _ = next_token_loss(logprobs, normalizer=totals.targets)
            return loss, self._distillation(hidden, head, states, totals)

        with ExitStack() as stack:
            stack.enter_context(routing_at(self.adapter, options.warmup_routing, progress))
            trace = (
                None if init is None else stack.enter_context(self.adapter.trace(activations=True, grad=True))
            )
            lm, kd = self.policy(batch.input_ids, batch.attention_mask, batch.select, compute)
            loss = lm + options.alpha * kd
            if init is not None and trace is not None:
                loss = loss + options.beta * init.loss(trace, batch, states, totals)
            loss.backward()  # in here: checkpointed layers route again in it
        sums["loss/lm"] += float(lm.detach())
        sums["loss/kd"] += float(kd.detach())

    def _teacher_states(self, items: list[WarmupItem]) -> TeacherStates | None:
        """Run one forward of the teacher for both of the terms that need it, none if neither does."""
        clusters = None if self.init is None else self.init.clusters
        if self.options.alpha == 0 and clusters is None:
            return None
        sequences, prompts = [item.sequence for item in items], [item.teacher_prompt for item in items]
        return self.teacher.states(sequences, prompts, clusters)

    def _distillation(
        self, hidden: Tensor, head: Head, states: TeacherStates | None, totals: BatchTotals
    ) -> Tensor:
        """Compute L_KD of the micro-batch; times tau^2, so that gradients do not shrink with the temperature."""
        if self.options.alpha == 0 or states is None:
            return hidden.new_zeros(())
        tau = torch.full((len(hidden),), self.options.tau, device=hidden.device)
        weight = torch.full_like(tau, self.options.tau**2 / max(totals.comparable, 1))
        kd, _ = self.teacher.kl(
            hidden, head, states, weight=weight, tau_teacher=tau, tau_student=tau, direction="forward"
        )
        return kd

    @torch.no_grad()
    def _start_mean(
        self, init: DatasetInit, groups: list[list[WarmupItem]], totals: BatchTotals, progress: float
    ) -> None:
        """Start the running mean of h_S from the first batch, measured before any update."""
        for items in groups:
            batch = self._collate(items)
            with (
                routing_at(self.adapter, self.options.warmup_routing, progress),
                self.adapter.trace(activations=True) as trace,
            ):
                self.policy(batch.input_ids, batch.attention_mask, batch.select, lambda hidden, _: hidden)
            init.observe(trace, batch)
        init.close_batch(totals)

    def _collate(self, items: list[WarmupItem]) -> TokenBatch:
        return collate([item.sequence for item in items], self.student.pad_id, self.processes.device)

    def _save(self, folder: Path, step: int) -> None:
        save_checkpoint(
            folder,
            step,
            parameters=self.parameters,
            tensors={} if self.init is None else self.init.state(),
            optimizer=self.optimizer,
            state=self.guard.state(),
            logs=[METRICS],
            keep=1,
            processes=self.processes,
        )

    def _restore(self, folder: Path) -> int:
        step, state, tensors = load_checkpoint(
            folder,
            parameters=self.parameters,
            optimizer=self.optimizer,
            processes=self.processes,
        )
        if self.init is not None:
            self.init.restore(tensors)
        self.guard.restore(state)
        return step


def choose_parameters(student: LanguageModel, options: WarmupOptions) -> None:
    """Make the wanted parameters trainable, never a router's."""
    model, adapter = student.model, student.adapter
    assert adapter is not None
    chosen = adapter.expert_parameters() if options.trainable == "experts" else list(model.parameters())
    routers = {id(parameter) for parameter in adapter.router_parameters()}
    model.requires_grad_(False)
    for parameter in chosen:
        parameter.requires_grad_(id(parameter) not in routers)
