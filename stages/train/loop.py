"""The fused loop of Stages II to IV, rollout by rollout, and the state that its checkpoints hold."""

import math
from pathlib import Path

from torch import Tensor

from padd_artifacts.writer import ArtifactWriter
from padd_stages.lib.models.trainable import folded_experts
from padd_stages.lib.models.trained import many_forwards
from padd_stages.lib.models.word_routes import WordRoutes
from padd_stages.lib.runtime.checkpoints import load_best, load_checkpoint, save_checkpoint
from padd_stages.lib.runtime.optimization import UpdateGuard, make_optimizer
from padd_stages.lib.runtime.processes import Processes
from padd_stages.lib.runtime.profiling import profiling
from padd_stages.lib.runtime.reporter import Reporter
from padd_stages.lib.runtime.seeds import rows_at
from padd_stages.lib.runtime.trackers import Trackers
from padd_stages.lib.sampling.server import EngineError
from padd_stages.train.collecting import Collector
from padd_stages.train.engine import TrainEngine
from padd_stages.train.log import (
    LOGS,
    Clock,
    log_step,
    noise_warning,
    sampler_warning,
)
from padd_stages.train.models import Models
from padd_stages.train.old_policy import OldPass, comparison_metrics, run_old_policy, sampler_metrics
from padd_stages.train.options import TrainOptions
from padd_stages.train.reward_functions import Rewards
from padd_stages.train.rollout import Prompt, Rollout
from padd_stages.train.router_bias import move_bias, temperature_spread
from padd_stages.train.router_shift import measure_shift
from padd_stages.train.stable_moe import WordRouter, stage_one, unrouted_share
from padd_stages.train.update import Updater


class TrainLoop:
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
        self.recent: list[float] = []  # mean rewards of the rollouts since the last checkpoint
        self.cosines: list[float] = []  # of the halves' gradients, since the run was started
        self.saved = 0  # rollouts that the last checkpoint holds
        self.stage_one = stage_one(options)  # rollouts of StableMoE's
        self.word_router = WordRouter(models.student, options, processes) if self.stage_one else None
        self.updater = Updater(models.policy, models.student, models.teacher, processes, self.guard, options)

    def run(self, writer: ArtifactWriter, trackers: Trackers, *, resume: bool) -> None:
        """Run all rollouts, from the last checkpoint if ``resume``."""
        options = self.options
        first = self.saved = self._restore(writer.folder) if resume else 0
        self.reporter.phase("training", options.steps)
        self.reporter.advance(first)
        with profiling(options.profile, writer, self.processes, self.reporter) as step_done:
            for step in range(first, options.steps):
                self._step(step, writer, trackers)
                if self._checkpoint_due(step + 1):
                    self._save(writer, step + 1)
                step_done()

    def _step(self, step: int, writer: ArtifactWriter, trackers: Trackers) -> None:
        """Make a rollout, update the student on it, move the router bias, and log."""
        options, models, clock = self.options, self.models, Clock(self.processes.device)
        rollout = self._collect(step, writer)
        clock.lap("rollout")
        passes, metrics = self._look(rollout)
        metrics |= self._word_routes(step, passes)
        clock.lap("old_policy_and_teacher")
        for number in range(options.num_iterations * options.mini_batches):
            part = [old for old in passes if old.mini_batch == number % options.mini_batches]
            metrics |= self.updater.update(part, step, is_first=number == 0)
        if "noise/cosine" in metrics:
            self.cosines.append(metrics["noise/cosine"])
            self._warn_once("noise", noise_warning(self.cosines))
        clock.lap("updates")
        self._follow_words(step + 1)
        load_metrics, routing = move_bias(models.student, passes, options, self.processes)
        metrics |= load_metrics
        if routing and self._shift_due(step + 1):
            shift = measure_shift(models.policy, models.student, passes, self.processes)
            metrics |= shift.metrics
            routing["router_shift"] = vars(shift)
            clock.lap("router_shift")
        if models.teacher is not None:
            metrics |= temperature_spread(rollout.advantages, options)
        clock.laps = self.processes.max_each(clock.laps)
        self.recent.append(metrics["reward"])
        if self.processes.is_main:
            line = log_step(writer.folder, step + 1, metrics, routing, rollout, clock, options)
            trackers.log(step + 1, metrics | clock.laps)
            self.reporter.advance(1, line)

    def _look(self, rollout: Rollout) -> tuple[list[OldPass], dict[str, float]]:
        """Run the old policy, and what it is compared with, over a rollout."""
        models = self.models
        with many_forwards(models.policy, self.processes):
            passes = run_old_policy(
                models.policy,
                models.student,
                models.teacher,
                models.reference,
                rollout,
                self.options,
                self.processes,
            )
        metrics = rollout.metrics | sampler_metrics(passes, rollout, self.processes)
        self._warn_once("sampler", sampler_warning(metrics))
        return passes, metrics | self._compared(passes)

    def _collect(self, step: int, writer: ArtifactWriter) -> Rollout:
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
                self._save(writer, step)
            raise

    def _word_routes(self, step: int, passes: list[OldPass]) -> dict[str, float]:
        """Teach StableMoE's router in its first stage."""
        adapter = self.models.student.adapter
        if self.word_router is not None and step < self.stage_one:
            return self.word_router.learn(self.models.policy, passes)
        return {} if adapter is None else unrouted_share(adapter, passes, self.processes)

    def _follow_words(self, step: int) -> None:
        """Route by words once the first stage is over, after ``step`` rollouts."""
        student, router = self.models.student, self.word_router
        if router is not None and student.adapter is not None:
            over = step >= self.stage_one
            if over and student.adapter.words is None:
                student.adapter.words = WordRoutes(student.model, router.table())
            elif not over:
                student.adapter.words = None

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
        self._set_router_state(step, tensors)
        return {"exported_rollout": step, "exported_reward": score}

    def _set_router_state(self, step: int, tensors: dict[str, Tensor]) -> None:
        student = self.models.student
        if student.adapter is not None:
            student.adapter.set_bias(tensors["bias"])
            student.ema = tensors["ema"]
        if self.word_router is not None:
            self.word_router.restore(tensors)
            self._follow_words(step)

    def _save(self, writer: ArtifactWriter, step: int) -> None:
        """Write a checkpoint that a run resumes from, after ``step`` rollouts."""
        tensors, student = {}, self.models.student
        if student.adapter is not None and student.ema is not None:
            tensors = {"bias": student.adapter.bias.cpu(), "ema": student.ema}
        if self.word_router is not None:
            tensors |= self.word_router.state()
        save_checkpoint(
            writer.folder,
            step,
            parameters=self.parameters,
            tensors=tensors,
            optimizer=self.optimizer,
            state={"drift_scale": self.updater.drift_scale, "drawn": self.drawn} | self.guard.state(),
            logs=LOGS,
            keep=self.options.keep_checkpoints,
            score=_mean(self.recent) if self.options.export == "best" else None,
            processes=self.processes,
        )
        if self.processes.is_main:
            writer.keep()
        self.saved, self.recent = step, []

    def _restore(self, folder: Path) -> int:
        step, state, tensors = load_checkpoint(
            folder,
            parameters=self.parameters,
            optimizer=self.optimizer,
            processes=self.processes,
        )
        self.updater.drift_scale, self.drawn = state["drift_scale"], state["drawn"]
        self.guard.restore(state)
        self._set_router_state(step, tensors)
        return step


def _mean(rewards: list[float]) -> float | None:
    """Compute the mean over the finite rewards; None if there is none."""
    known = [reward for reward in rewards if math.isfinite(reward)]
    return sum(known) / len(known) if known else None
