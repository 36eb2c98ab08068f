"""One optimizer update: policy loss with Stage III's weight, plus Stage II's distillation."""

from collections import Counter
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from padd_stages.engine.passes import OldPass, token_logprobs, traced
from padd_stages.models.loading import LanguageModel
from padd_stages.models.policy import Head
from padd_stages.models.teaching import Teacher
from padd_stages.objectives.distillation import phi
from padd_stages.objectives.drift import drift_log_weight, drift_metrics, router_drift
from padd_stages.objectives.policy import CLIP_RANGE, finalize, loss_normalizer, policy_loss
from padd_stages.options.train import TrainOptions
from padd_stages.runtime.optimization import UpdateGuard, learning_rate_at

DRIFT_EMA = 0.1  # chosen: the unit of lambda follows the learning rate within about ten rollouts


@dataclass
class _Gathered:
    """What one update adds up over its micro-batches; drift holds Gamma, log w and A of each token."""

    sums: Counter[str] = field(default_factory=Counter)
    drift: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)


class Updater:
    """Makes updates from old-policy passes; ``drift_scale`` (running mean of Gamma) is its only state of its own."""

    def __init__(
        self,
        policy: nn.Module,
        student: LanguageModel,
        teacher: Teacher | None,
        accelerator: Accelerator,
        guard: UpdateGuard,
        options: TrainOptions,
    ) -> None:
        self.policy, self.student, self.teacher = policy, student, teacher
        self.accelerator, self.guard, self.options = accelerator, guard, options
        self.drift_scale = 0.0  # until a second update of a rollout has been seen
        low, high = CLIP_RANGE[options.loss_type]
        self.eps_low, self.eps_high = options.epsilon or low, options.epsilon_high or high

    def update(self, passes: list[OldPass], step: int, *, is_first: bool) -> dict[str, float]:
        """One optimizer update over the whole rollout, micro-batch by micro-batch; returns its metrics.

        Every loss is divided by a constant of the whole rollout, so how it is cut changes nothing.
        """
        options = self.options
        normalizer = loss_normalizer(
            options.loss_type,
            responses=sum(len(old.members) for old in passes),
            tokens=sum(old.logprobs.numel() for old in passes),
            max_completion_length=options.max_completion_length,
        )
        gathered = _Gathered()
        for old in passes:
            self.accelerator.backward(self._loss(old, normalizer, gathered))
        rate = learning_rate_at(
            step,
            steps=options.steps,
            peak=options.learning_rate,
            warmup_steps=options.lr_warmup_steps,
            schedule=options.lr_schedule,
        )
        norm = self.guard.step(rate)
        metrics = self._metrics(gathered) | {"grad_norm": float(norm), "learning_rate": rate}
        gamma = metrics.get("drift/gamma_all_mean")
        if gamma is not None and not is_first:  # before the first update nothing has drifted
            self.drift_scale += (DRIFT_EMA if self.drift_scale else 1.0) * (gamma - self.drift_scale)
            metrics["drift/scale"] = self.drift_scale
        return metrics

    def _loss(self, old: OldPass, normalizer: float, gathered: _Gathered) -> Tensor:
        options, batch = self.options, old.batch

        def compute(hidden: Tensor, head: Head) -> tuple[Tensor, Tensor, Tensor]:
            logprobs, entropy = token_logprobs(hidden, head, batch, options.temperature)
            return logprobs, entropy, self._distillation(hidden, head, old, gathered)

        (logprobs, entropy, kd_loss), probs, _ = traced(self.policy, self.student, batch, compute)
        loss, sums = policy_loss(
            batch.pad(logprobs),
            batch.pad(old.logprobs),
            old.advantages,
            batch.response_mask,
            kind=options.loss_type,
            eps_low=self.eps_low,
            eps_high=self.eps_high,
            normalizer=normalizer,
            log_weight=self._drift_weight(old, probs, gathered),
            max_completion_length=options.max_completion_length,
        )
        gathered.sums.update({name: float(value) for name, value in sums.items()})
        gathered.sums.update(
            {"entropy": float(entropy.sum()), "tokens": logprobs.numel(), "policy_loss": float(loss.detach())}
        )
        return loss + options.kd_weight * kd_loss

    def _distillation(self, hidden: Tensor, head: Head, old: OldPass, gathered: _Gathered) -> Tensor:
        """Stage II: KL to the teacher at a temperature set by each response's advantage."""
        if self.teacher is None or old.teacher is None or old.kd_weight is None:
            return hidden.new_zeros(())
        options = self.options
        temperature = options.tau * phi(old.advantages, options.kappa, options.phi, options.phi_min)
        adaptive = temperature[old.batch.rows]  # (M,)
        loss, kl = self.teacher.kl(
            hidden,
            head,
            old.teacher,
            weight=old.kd_weight,
            tau_teacher=adaptive,
            tau_student=adaptive if options.kd_temper == "both" else torch.ones_like(adaptive),
            direction=options.kl,
        )
        gathered.sums.update(
            {"kd_loss": float(loss.detach()), "kl": float(kl.sum()), "kl_tokens": kl.numel()}
        )
        return loss

    def _drift_weight(self, old: OldPass, probs: Tensor | None, gathered: _Gathered) -> Tensor | None:
        """Stage III: log w (B, R), or None where it is off. Gamma is measured for every MoE student."""
        if probs is None or old.probs is None:
            return None
        options, batch = self.options, old.batch
        gamma = router_drift(probs, old.probs)
        scale = 1.0 if options.drift_units == "raw" else self.drift_scale
        weight = None
        if options.drift_lambda > 0 and scale > 0:
            weight = drift_log_weight(batch.pad(gamma), old.advantages, options.drift_lambda, scale)
        shown = torch.zeros_like(gamma) if weight is None else weight[batch.response_mask]
        gathered.drift.append((gamma, shown, old.advantages[batch.rows]))
        return weight

    def _metrics(self, gathered: _Gathered) -> dict[str, float]:
        sums = gathered.sums
        metrics = finalize(sums) | {
            "entropy": sums["entropy"] / sums["tokens"],
            "policy_loss": sums["policy_loss"],
            "skipped_updates": self.guard.skipped,
        }
        if self.teacher is not None:
            metrics |= {"kd/loss": sums["kd_loss"], "kd/kl": sums["kl"] / max(sums["kl_tokens"], 1)}
        if gathered.drift:
            gamma, log_weight, advantages = (torch.cat(parts) for parts in zip(*gathered.drift, strict=True))
            every = torch.ones_like(gamma)[:, None]
            metrics |= drift_metrics(log_weight[:, None], gamma[:, None], advantages, every)
        return metrics
