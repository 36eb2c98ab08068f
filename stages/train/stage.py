"""`padd train`: Stages II to IV fused into one run, and every baseline of it (docs/METHOD.md, sections 4 and 5).

Each step: roll out, reward, run the old policy once, update several times, move the router bias. Stage II acts in
the forward pass, III in the loss, IV after the last update.
"""

import math
from pathlib import Path

from torch import Tensor

from padd_artifacts.artifact import Artifact, open_artifact
from padd_artifacts.errors import PaddError
from padd_artifacts.plan import Plan
from padd_artifacts.writer import ArtifactWriter, Output
from padd_stages.lib.grading.grader import Grader
from padd_stages.lib.models.loading import model_parent
from padd_stages.lib.models.saving import save_model
from padd_stages.lib.models.trainable import folded_experts, merge_factors
from padd_stages.lib.models.trained import check_teacher_device, is_mixed, many_forwards
from padd_stages.lib.models.word_routes import WordRoutes
from padd_stages.lib.options.shared import SHARD
from padd_stages.lib.runtime.checkpoints import FOLDER as CHECKPOINTS
from padd_stages.lib.runtime.checkpoints import load_best, load_checkpoint, save_checkpoint
from padd_stages.lib.runtime.launcher import sharding_requested
from padd_stages.lib.runtime.metrics_log import TIMINGS
from padd_stages.lib.runtime.optimization import UpdateGuard, make_optimizer, require_optimizer
from padd_stages.lib.runtime.processes import Processes, check_divides, collective_forwards, start_processes
from padd_stages.lib.runtime.profiling import profiling
from padd_stages.lib.runtime.reporter import SILENT, Reporter
from padd_stages.lib.runtime.seeds import rows_at, seed_everything
from padd_stages.lib.runtime.sharding import gather_state
from padd_stages.lib.runtime.trackers import Trackers, require_tracker
from padd_stages.lib.sampling.server import EngineError
from padd_stages.train.checks import check_method, likely_mistakes
from padd_stages.train.collecting import Collector
from padd_stages.train.engine import TrainEngine, start_engine
from padd_stages.train.log import (
    LOGS,
    Clock,
    final_report,
    log_step,
    sampler_warning,
    stage3_warning,
    unused_balance_loss,
)
from padd_stages.train.models import Models, load_models
from padd_stages.train.old_policy import OldPass, comparison_metrics, run_old_policy, sampler_metrics
from padd_stages.train.options import TrainInputs, TrainOptions
from padd_stages.train.reward_functions import Rewards, reward_parents
from padd_stages.train.rollout import Prompt, Rollout, make_prompts
from padd_stages.train.router_bias import move_bias, temperature_spread
from padd_stages.train.router_shift import measure_shift
from padd_stages.train.stable_moe import WordRouter, stage_one, unrouted_share
from padd_stages.train.update import Updater

TENSORBOARD = "tensorboard"  # folder beside the result's


def plan(inputs: TrainInputs, options: TrainOptions) -> Plan:
    """Open the inputs and check that the options can act on them."""
    check_method(inputs, options)
    check_divides("--prompts-per-step", options.prompts_per_step, options.mini_batches)
    split = open_artifact(inputs.split, "split")
    parents = {"student": model_parent(inputs.student), "split": split.as_parent()}
    if options.kd_weight > 0 and inputs.teacher is not None:
        parents["teacher"] = model_parent(inputs.teacher)
    parents |= reward_parents(options.reward)
    for name in options.tracker:
        require_tracker(name)
    require_optimizer(options.optimizer)
    sizes = {
        "prompts": sum(1 for _ in split.file("c.jsonl").open(encoding="utf-8")),
        "rollouts": options.steps,
        "responses": options.steps * options.prompts_per_step * options.num_generations,
        "updates": options.steps * options.num_iterations * options.mini_batches,
    }
    return Plan("student", options, parents, sizes)


def run(inputs: TrainInputs, options: TrainOptions, output: Output, reporter: Reporter = SILENT) -> Artifact:
    """Train the student and write a checkpoint that transformers loads, with its router state and logs."""
    output.check()
    plan_ = plan(inputs, options)
    check_teacher_device(options.teacher_device)
    with start_processes(
        options.device,
        shards=sharding_requested(),
        mixed=is_mixed(inputs.student, options.dtype),
        lockstep=options.teacher_device == SHARD,
    ) as processes:
        return _run(inputs, options, plan_, output, processes, reporter)


def _run(
    inputs: TrainInputs,
    options: TrainOptions,
    plan_: Plan,
    output: Output,
    processes: Processes,
    reporter: Reporter,
) -> Artifact:
    reporter = reporter if processes.is_main else SILENT
    seed_everything(options.seed)
    with (
        ArtifactWriter(output, plan_, writes=processes.is_main) as writer,
        Grader(workers=options.workers, time_limit=options.grading_limit) as grader,
        Rewards(options.reward, options.reward_weights, grader) as rewards,
        Trackers(
            options.tracker if processes.is_main else (),
            run_name=output.out.name,
            config=inputs.model_dump(mode="json") | options.model_dump(mode="json"),
            folder=output.out.parent / TENSORBOARD,
        ) as trackers,
    ):
        for text in likely_mistakes(options):
            reporter.warn(text)
        writer.scratch.add(CHECKPOINTS)
        reporter.phase("loading the models")
        models = load_models(inputs, options, processes)
        if (text := unused_balance_loss(models.student, options)) is not None:
            reporter.note(text)
        if models.teacher is not None and (text := models.teacher.ends_note()) is not None:
            reporter.note(text)
        teacher = models.teacher.language_model if models.teacher else None
        rows = open_artifact(inputs.split, "split", check=False).jsonl("c.jsonl")
        prompts, left_out = make_prompts(rows, models.student, teacher, options)
        if not prompts:
            raise PaddError(f"no problem of D_C in {inputs.split} fits in --max-prompt-length; raise it.")
        if left_out:
            reporter.note(
                f"{left_out} of {len(rows)} prompts are longer than {options.max_prompt_length} tokens"
            )
        engine = start_engine(models.policy, models.student, prompts, options, processes, output, writer)
        loop = _Loop(models, processes, prompts, rewards, options, reporter, engine)
        with collective_forwards():
            loop.run(writer, trackers, resume=output.resume)
        if engine is not None:
            engine.close()
        _write_result(loop, writer)
    processes.barrier()  # for the process that writes
    return writer.artifact


def _write_result(loop: "_Loop", writer: ArtifactWriter) -> None:
    """Write the student and the report beside the logs, in one process; a sharded student is gathered there."""
    options, student, is_main = loop.options, loop.models.student, loop.processes.is_main
    best = loop.take_best(writer.folder) if options.export == "best" else {}
    merge_factors(student.model)
    state = gather_state(student.model, keep=is_main, dtypes=student.dtypes) if loop.processes.fsdp else None
    if not is_main:
        return
    report = final_report(writer.folder, options) | best
    if (text := stage3_warning(report, options)) is not None:
        loop.reporter.warn(text)
    save_model(writer.folder, student, state)
    writer.volatile.add(TIMINGS)
    writer.write_json("report.json", report)
    writer.summary.update(report)


class _Loop:
    """The fused loop and the state that a checkpoint holds."""

    def __init__(
        self,
        models: Models,
        processes: Processes,
        prompts: list[Prompt],
        rewards: Rewards,
        options: TrainOptions,
        reporter: Reporter,
        engine: TrainEngine | None,
    ) -> None:
        self.models, self.processes, self.prompts = models, processes, prompts
        self.options, self.reporter = options, reporter
        self.collector = Collector(models.policy, models.student, rewards, options, processes, engine)
        self.drawn = 0  # prompts, of the endless stream of shuffled epochs
        self.parameters = {n: p for n, p in models.student.model.named_parameters() if p.requires_grad}
        self.optimizer = make_optimizer(
            self.parameters.values(),
            learning_rate=options.learning_rate,
            weight_decay=options.weight_decay,
            name=options.optimizer,
        )
        self.guard = UpdateGuard(self.optimizer, options.max_grad_norm, processes)
        self.warned: set[str] = set()
        self.stage_one = stage_one(options)  # rollouts of StableMoE's
        self.word_router = WordRouter(models.student, options, processes) if self.stage_one else None
        self.updater = Updater(models.policy, models.student, models.teacher, processes, self.guard, options)

    def run(self, writer: ArtifactWriter, trackers: Trackers, *, resume: bool) -> None:
        """Run all rollouts, from the last checkpoint if ``resume``."""
        options, processes, models = self.options, self.processes, self.models
        first = self.saved = self._restore(writer.folder) if resume else 0
        recent: list[float] = []  # mean rewards of the rollouts since the last checkpoint
        self.reporter.phase("training", options.steps)
        self.reporter.advance(first)
        with profiling(options.profile, writer, processes, self.reporter) as step_done:
            for step in range(first, options.steps):
                clock = Clock(processes.device)
                rollout = self._collect(step, writer, recent)
                clock.lap("rollout")
                with many_forwards(models.policy, processes):
                    passes = run_old_policy(
                        models.policy,
                        models.student,
                        models.teacher,
                        models.reference,
                        rollout,
                        options,
                        processes,
                    )
                clock.lap("old_policy_and_teacher")
                metrics = rollout.metrics | sampler_metrics(passes, rollout, processes)
                self._warn_once("sampler", sampler_warning(metrics))
                metrics |= self._compared(passes) | self._word_routes(step, passes)
                for number in range(options.num_iterations * options.mini_batches):
                    part = [old for old in passes if old.mini_batch == number % options.mini_batches]
                    metrics |= self.updater.update(part, step, is_first=number == 0)
                clock.lap("updates")
                if step + 1 == self.stage_one:
                    self._follow_words()
                load_metrics, routing = move_bias(models.student, passes, options, processes)
                metrics |= load_metrics
                if routing and self._shift_due(step + 1):
                    shift = measure_shift(models.policy, models.student, passes, processes)
                    metrics |= shift.metrics
                    routing["router_shift"] = vars(shift)
                    clock.lap("router_shift")
                if models.teacher is not None:
                    metrics |= temperature_spread(rollout.advantages, options)
                clock.laps = processes.max_each(clock.laps)
                recent.append(metrics["reward"])
                if processes.is_main:
                    line = log_step(writer.folder, step + 1, metrics, routing, rollout, clock, options)
                    trackers.log(step + 1, metrics | clock.laps)
                    self.reporter.advance(1, line)
                if self._checkpoint_due(step + 1):
                    self._save(writer.folder, step + 1, recent)
                    if processes.is_main:
                        writer.keep()
                    recent = []
                step_done()

    def _collect(self, step: int, writer: ArtifactWriter, recent: list[float]) -> Rollout:
        """Make a rollout; if its engine fails, keep a checkpoint of what was learnt before."""
        policy, drawn = self.models.policy, self.drawn
        if self.options.engine == "transformers":
            # the inner context copies what the outer one has changed
            with folded_experts(policy), many_forwards(policy, self.processes):
                return self.collector.collect(self._draw, step)
        try:
            return self.collector.collect(self._draw, step)
        except EngineError:
            self.drawn = drawn
            if step > self.saved:
                self._save(writer.folder, step, recent)
                if self.processes.is_main:
                    writer.keep()
            raise

    def _word_routes(self, step: int, passes: list[OldPass]) -> dict[str, float]:
        """Teach StableMoE's router in its first stage."""
        adapter = self.models.student.adapter
        if self.word_router is not None and step < self.stage_one:
            return self.word_router.learn(self.models.policy, passes)
        return {} if adapter is None else unrouted_share(adapter, passes, self.processes)

    def _follow_words(self) -> None:
        student, router = self.models.student, self.word_router
        assert student.adapter is not None
        assert router is not None
        student.adapter.words = WordRoutes(student.model, router.table())

    def _compared(self, passes: list[OldPass]) -> dict[str, float]:
        teacher = self.models.teacher
        if teacher is None:
            return {}
        shares = comparison_metrics(passes, self.processes)
        self._warn_once("positions", teacher.check_compared(*shares.values()))
        return shares

    def _warn_once(self, about: str, text: str | None) -> None:
        if text is not None and about not in self.warned:
            self.reporter.warn(text)
            self.warned.add(about)

    def _draw(self) -> list[Prompt]:
        """Return the next prompts."""
        count = self.options.prompts_per_step
        chosen = rows_at(self.options.seed, self.drawn, count, len(self.prompts))
        self.drawn += count
        return [self.prompts[index] for index in chosen]

    def _shift_due(self, step: int) -> bool:
        every = self.options.log_shift_every
        return every > 0 and step % every == 0

    def _checkpoint_due(self, step: int) -> bool:
        every = self.options.checkpoint_every
        last = step == self.options.steps and self.options.export == "best"  # it is to be chosen from too
        return every > 0 and (step % every == 0 or last)

    def take_best(self, folder: Path) -> dict[str, float]:
        """Put the best checkpoint's weights and router state into the student; says for the report which it was."""
        best = load_best(folder, parameters=self.parameters, processes=self.processes)
        if best is None:  # no rollout had a reward: the last student stays
            return {}
        step, score, tensors = best
        self._set_router_state(tensors)
        return {"exported_rollout": step, "exported_reward": score}

    def _set_router_state(self, tensors: dict[str, Tensor]) -> None:
        student = self.models.student
        if student.adapter is not None:
            student.adapter.set_bias(tensors["bias"])
            student.ema = tensors["ema"]

    def _save(self, folder: Path, step: int, recent: list[float]) -> None:
        tensors, student = {}, self.models.student
        if student.adapter is not None and student.ema is not None:
            tensors = {"bias": student.adapter.bias.cpu(), "ema": student.ema}
        if self.word_router is not None:
            tensors |= self.word_router.state()
        save_checkpoint(
            folder,
            step,
            parameters=self.parameters,
            tensors=tensors,
            optimizer=self.optimizer,
            state={"drift_scale": self.updater.drift_scale, "drawn": self.drawn} | self.guard.state(),
            logs=LOGS,
            keep=self.options.keep_checkpoints,
            score=_mean(recent) if self.options.export == "best" else None,
            processes=self.processes,
        )
        self.saved = step

    def _restore(self, folder: Path) -> int:
        step, state, tensors = load_checkpoint(
            folder,
            parameters=self.parameters,
            optimizer=self.optimizer,
            processes=self.processes,
        )
        self.updater.drift_scale, self.drawn = state["drift_scale"], state["drawn"]
        self.guard.restore(state)
        self._set_router_state(tensors)
        if self.word_router is not None:
            self.word_router.restore(tensors)
            if step >= self.stage_one:
                self._follow_words()
        return step


def _mean(rewards: list[float]) -> float | None:
    """Compute the mean over the finite rewards; None if there is none."""
    known = [reward for reward in rewards if math.isfinite(reward)]
    return sum(known) / len(known) if known else None
