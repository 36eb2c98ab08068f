"""One optimizer update: policy loss with Stage III's or RSPO's weight, Stage II's distillation, reference KL."""

import math
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor, nn

from padd_stages.lib.models.loading import LanguageModel
from padd_stages.lib.models.policy import Head, token_logprobs
from padd_stages.lib.models.teacher import Teacher
from padd_stages.lib.models.trained import use_checkpoints
from padd_stages.lib.objectives.balance import balance_loss, routed_slots
from padd_stages.lib.objectives.drift import drift_log_weight, drift_metrics, rspo_log_weight, rspo_metrics
from padd_stages.lib.objectives.policy import (
    CLIP_RANGE,
    PolicyLossOptions,
    loss_normalizer,
    policy_loss,
    policy_metrics,
)
from padd_stages.lib.objectives.reference import reference_kl
from padd_stages.lib.objectives.temperature import phi
from padd_stages.lib.runtime.optimization import UpdateGuard, learning_rate_at
from padd_stages.lib.runtime.processes import Processes
from padd_stages.train.gradient_noise import HalfGradients
from padd_stages.train.old_policy import OldPass
from padd_stages.train.old_routing import RouterMovement
from padd_stages.train.options import TrainOptions

Result = TypeVar("Result")
DRIFT_EMA = 0.1  # chosen: the unit of lambda follows the learning rate within about ten rollouts


@dataclass
class _UpdateSums:
    """Sums of one update over its micro-batches; `routed` holds Gamma, log weight and A of each token.

    ``load`` is (L, N), the slots that each expert got per token, for the balance loss.
    """

    load: Tensor | None = None
    sums: Counter[str] = field(default_factory=Counter)
    routed: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)


class Updater:
    """Optimizer updates from old-policy passes; ``drift_scale`` (running mean of Gamma) is their only state."""

    def __init__(
        self,
        policy: nn.Module,
        student: LanguageModel,
        teacher: Teacher | None,
        processes: Processes,
        guard: UpdateGuard,
        options: TrainOptions,
    ) -> None:
        self.policy, self.student, self.teacher = policy, student, teacher
        self.processes, self.guard, self.options = processes, guard, options
        self.drift_scale = 0.0  # until a second update of a rollout has been seen
        low, high = CLIP_RANGE[options.loss_type]
        self.loss_options = PolicyLossOptions(
            kind=options.loss_type,
            eps_low=options.epsilon or low,
            eps_high=options.epsilon_high or high,
            max_completion_length=options.max_completion_length,
            weight_after_clip=options.router_shift == "after-clip",
        )

    def update(self, passes: list[OldPass], step: int, *, is_first: bool) -> dict[str, float]:
        """Make one optimizer update over a mini-batch, micro-batch by micro-batch, and return its metrics.

        Every loss is divided by a constant of the mini-batch, all processes, so how it is cut changes nothing.
        """
        options = self.options
        counts = self.processes.sum_each(
            {
                "responses": sum(len(old.members) for old in passes),
                "tokens": sum(old.logprobs.numel() for old in passes),
            }
        )
        tokens = counts["tokens"]
        normalizer = loss_normalizer(
            options.loss_type,
            responses=counts["responses"],
            tokens=tokens,
            max_completion_length=options.max_completion_length,
        )
        if options.gradient_checkpointing:
            use_checkpoints(self.student.model)
        totals = _UpdateSums(load=self._load(passes))
        halves = self._watched_halves(step, is_first=is_first)
        for number, old in enumerate(passes := sorted(passes, key=lambda old: old.half)):
            if halves is not None and old.half and not passes[number - 1].half:
                halves.half()
            with self._routes(old):  # around the backward too: checkpointed layers route again in it
                self._loss(old, normalizer, tokens, totals).backward()
        noise = {} if halves is None else {"noise/cosine": halves.cosine()}
        self.processes.sum_gradients(self.policy.parameters())
        rate = learning_rate_at(
            step,
            steps=options.steps,
            peak=options.learning_rate,
            warmup_steps=options.lr_warmup_steps,
            schedule=options.lr_schedule,
        )
        step_metrics = self.guard.step(rate)
        metrics = self._metrics(passes, totals) | step_metrics | noise
        gamma = metrics.get("drift/gamma_all_mean")
        # before the first update nothing has drifted; one broken batch must not switch Stage III off for good
        if gamma is not None and math.isfinite(gamma) and not is_first:
            self.drift_scale += (DRIFT_EMA if self.drift_scale else 1.0) * (gamma - self.drift_scale)
            metrics["drift/scale"] = self.drift_scale
        return metrics

    def _watched_halves(self, step: int, *, is_first: bool) -> HalfGradients | None:
        """Return what compares the halves' gradients, at a rollout's first update when that is due."""
        every = self.options.log_noise_every
        due = every > 0 and step % every == 0 and is_first
        return HalfGradients(self.policy.parameters(), self.processes) if due else None

    def _routes(self, old: OldPass) -> AbstractContextManager[None]:
        """Fix the routes to the old policy's top-K sets, for router replay; else do nothing."""
        if self.student.adapter is None or old.routing is None or old.routing.routes is None:
            return nullcontext()
        return self.student.adapter.fixed_routes(old.routing.routes)

    def _loss(self, old: OldPass, normalizer: float, tokens: int, totals: _UpdateSums) -> Tensor:
        """Compute the micro-batch's share of L = -J + w_KD L_KD + beta_ref KL (docs/METHOD.md, section 4)."""
        options, batch = self.options, old.batch

        def compute(hidden: Tensor, head: Head) -> tuple[Tensor, Tensor, Tensor]:
            logprobs, entropy = token_logprobs(hidden, head, batch, options.temperature)
            return logprobs, entropy, self._distillation(hidden, head, old, totals)

        (logprobs, entropy, kd_loss), movement, balance = self._forward(old, compute, totals.load)
        new, mask = batch.pad(logprobs), batch.response_mask
        loss, sums = policy_loss(
            new,
            batch.pad(old.logprobs),
            old.advantages if old.token_advantages is None else batch.pad(old.token_advantages),
            mask,
            normalizer=normalizer,
            log_weight=self._ratio_weight(old, movement, totals),
            token_weight=None if old.correction is None else batch.pad(old.correction),
            **vars(self.loss_options),
        )
        totals.sums.update({name: float(value) for name, value in sums.items()})
        totals.sums.update(
            {
                "entropy": float(entropy.detach().sum()),
                "tokens": logprobs.numel(),
                "policy_loss": float(loss.detach()),
            }
        )
        loss = loss + options.kd_weight * kd_loss
        if options.entropy_coef > 0:
            loss = loss - options.entropy_coef * entropy.sum() / tokens
        if balance is not None:
            totals.sums.update({"aux_loss": float(balance.detach()) / tokens})
            loss = loss + options.router_aux_loss_coef * balance / tokens
        if old.reference_logprobs is not None:
            reference, sums = reference_kl(new, batch.pad(old.reference_logprobs), mask, normalizer=tokens)
            totals.sums.update({name: float(value) for name, value in sums.items()})
            loss = loss + options.beta_ref * reference
        return loss

    def _forward(
        self, old: OldPass, compute: Callable[[Tensor, Head], Result], load: Tensor | None
    ) -> tuple[Result, RouterMovement | None, Tensor | None]:
        """Run a forward with ``compute``; for an MoE student measure on the way how far routing has moved.

        Returns:
            What ``compute`` returns, the movement, and with ``load`` the balance loss summed over response tokens.
        """
        batch, adapter = old.batch, self.student.adapter
        arguments = (batch.input_ids, batch.attention_mask, batch.select, compute)
        if adapter is None or old.routing is None:
            return self.policy(*arguments), None, None
        shifted = self.options.router_shift != "off"
        movement = RouterMovement(old.routing, old.logprobs.device, with_shift=shifted)
        if not self.options.drift_grad and load is None:
            with adapter.observe(movement.listener(adapter, batch)):
                return self.policy(*arguments), movement, None
        with adapter.trace(grad=True) as trace:
            result = self.policy(*arguments)
        routed = trace.probs[:, batch.select.flatten()]  # (L, M, N)
        for m, probs in enumerate(routed):
            movement.add(m, probs if self.options.drift_grad else probs.detach(), slice(None))
        return result, movement, None if load is None else balance_loss(routed, load)

    def _load(self, passes: list[OldPass]) -> Tensor | None:
        """Return the load (L, N) under the old policy, of all processes, for the balance loss; None without one."""
        adapter = self.student.adapter
        if self.options.router_aux_loss_coef == 0 or adapter is None or adapter.words is not None:
            return None  # routes by words do not follow the router, so there is nothing to balance
        slots = torch.zeros(adapter.num_layers, adapter.num_experts)
        for old in passes:
            assert old.routing is not None
            indices = old.routing.indices
            slots += routed_slots(
                indices, torch.ones(indices.shape[1], dtype=torch.bool), adapter.num_experts
            ).float()
        slots = self.processes.sum(slots)
        return adapter.top_k * slots / slots.sum(dim=1, keepdim=True)

    def _distillation(self, hidden: Tensor, head: Head, old: OldPass, totals: _UpdateSums) -> Tensor:
        """Compute Stage II: KL to the teacher at a temperature set by each response's advantage."""
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
            clamp=options.kd_clamp,
        )
        totals.sums.update({"kd_loss": float(loss.detach()), "kl": float(kl.sum()), "kl_tokens": kl.numel()})
        return loss

    def _ratio_weight(
        self, old: OldPass, movement: RouterMovement | None, totals: _UpdateSums
    ) -> Tensor | None:
        """Compute the log weight (B, R) of the ratio: Stage III's w or RSPO's g; None where neither is on."""
        if movement is None:
            return None
        options, batch = self.options, old.batch
        scale = 1.0 if options.drift_units == "raw" else self.drift_scale
        weight = None
        if options.router_shift != "off":
            weight = batch.pad(rspo_log_weight(movement.shift, options.router_shift_floor))
        elif options.drift_lambda > 0 and scale > 0:
            gamma, lam = batch.pad(movement.gamma), options.drift_lambda
            weight = drift_log_weight(gamma, old.advantages, lam, scale, keep_grad=options.drift_grad)
        gamma = movement.gamma.detach()
        logged = torch.zeros_like(gamma) if weight is None else weight.detach()[batch.response_mask]
        totals.routed.append((gamma, logged, old.advantages[batch.rows]))
        return weight

    def _metrics(self, passes: list[OldPass], totals: _UpdateSums) -> dict[str, float]:
        """Of all processes, and the same in each."""
        sums, options = self.processes.sum_each(totals.sums), self.options
        metrics = policy_metrics(sums) | {
            "entropy": sums["entropy"] / sums["tokens"],
            "policy_loss": sums["policy_loss"],
            "skipped_updates": self.guard.skipped,
        }
        if options.router_aux_loss_coef > 0:
            metrics["aux_loss"] = sums["aux_loss"]  # transformers' name
        if options.beta_ref > 0:
            metrics["kl"] = sums["sum/reference_kl"] / sums["tokens"]  # TRL's name
        if self.teacher is not None and options.kd_as == "loss":
            metrics |= {"kd/loss": sums["kd_loss"], "kd/kl": sums["kl"] / max(sums["kl_tokens"], 1)}
        if totals.routed:
            metrics |= self._routing_metrics(totals)
        errors = [float(old.routing.error.max()) for old in passes if old.routing is not None]
        if options.trace_dtype != "fp32" and errors:
            metrics["drift/trace_error"] = max(self.processes.gather(max(errors)))
        return metrics

    def _routing_metrics(self, totals: _UpdateSums) -> dict[str, float]:
        """Compute routing metrics over all processes' tokens, three numbers each: quantiles do not add up."""
        mine = torch.stack([torch.cat(parts) for parts in zip(*totals.routed, strict=True)])  # (3, M)
        gamma, log_weight, advantages = torch.cat(self.processes.gather(mine.cpu()), dim=1)
        metrics = {}
        if self.options.router_shift != "off":
            metrics = rspo_metrics(log_weight, self.options.router_shift_floor)
            log_weight = torch.zeros_like(log_weight)  # RSPO's weight is not Stage III's
        return metrics | drift_metrics(log_weight, gamma, advantages)
