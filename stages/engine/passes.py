"""The old-policy pass of a rollout: what ratios, drift, distillation and frequencies are measured against."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from padd_stages.data.sequences import TokenBatch, collate, micro_batches
from padd_stages.models.loading import LanguageModel
from padd_stages.models.policy import Head
from padd_stages.models.teaching import Teacher, TeacherStates
from padd_stages.objectives.distillation import chunked_logprobs
from padd_stages.options.train import TrainOptions
from padd_stages.rollout.collect import Rollout

Result = TypeVar("Result")


@dataclass
class OldPass:
    """The old policy on one micro-batch of B responses with M response tokens in all.

    Attributes:
        members: (B,) indices into the rollout.
        advantages: (B,).
        logprobs: (M,).
        probs, indices: (L, M, N) router probabilities and (L, M, K) choices; None for a dense student.
        teacher: its hidden states, for distillation.
        kd_weight: (M,) each token's share of L_KD over the whole rollout.
    """

    batch: TokenBatch
    members: list[int]
    advantages: Tensor
    logprobs: Tensor
    probs: Tensor | None
    indices: Tensor | None
    teacher: TeacherStates | None
    kd_weight: Tensor | None = None


def traced(
    policy: nn.Module, student: LanguageModel, batch: TokenBatch, compute: Callable[[Tensor, Head], Result]
) -> tuple[Result, Tensor | None, Tensor | None]:
    """Forward with ``compute``; also router probabilities (L, M, N) and choices (L, M, K) of response tokens."""
    arguments = (batch.input_ids, batch.attention_mask, batch.select, compute)
    if student.adapter is None:
        return policy(*arguments), None, None
    with student.adapter.trace() as trace:
        result = policy(*arguments)
    chosen = batch.select.flatten()
    return result, trace.probs[:, chosen], trace.indices[:, chosen]


def token_logprobs(
    hidden: Tensor, head: Head, batch: TokenBatch, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy (M,) of the response tokens at the rollout's temperature."""
    return chunked_logprobs(hidden, head.weight, batch.targets, temperature, head.bias, softcap=head.softcap)


@torch.no_grad()
def run_old_policy(
    policy: nn.Module,
    student: LanguageModel,
    teacher: Teacher | None,
    rollout: Rollout,
    options: TrainOptions,
    device: torch.device,
) -> list[OldPass]:
    """One no-grad forward over the rollout; the sampler's own log-probabilities are not used.

    The micro-batches made here are those of the updates too.
    """
    passes = []
    lengths = [len(sequence) for sequence in rollout.sequences]
    for members in micro_batches(lengths, options.micro_batch_tokens):
        sequences = [rollout.sequences[i] for i in members]
        batch = collate(sequences, student.pad_id, device)

        def compute(hidden: Tensor, head: Head, batch: TokenBatch = batch) -> Tensor:
            return token_logprobs(hidden, head, batch, options.temperature)[0]

        logprobs, probs, indices = traced(policy, student, batch, compute)
        states = None
        if teacher is not None:
            states = teacher.read(sequences, [rollout.prompts[i].teacher_ids for i in members])
        advantages = rollout.advantages[members].to(device)
        passes.append(OldPass(batch, members, advantages, logprobs, probs, indices, states))
    _weigh_distillation(passes, rollout, options)
    return passes


def _weigh_distillation(passes: list[OldPass], rollout: Rollout, options: TrainOptions) -> None:
    """1 / (compared tokens of the whole rollout), 0 where nothing is compared."""
    for old in passes:
        if old.teacher is None:
            continue
        kept = old.teacher.comparable
        if options.kd_on != "all":
            correct = rollout.correct[old.members].to(kept.device)[old.batch.rows] > 0.5
            kept = kept & (correct if options.kd_on == "correct" else ~correct)
        old.kd_weight = kept.float()
    total = max(sum(float(old.kd_weight.sum()) for old in passes if old.kd_weight is not None), 1.0)
    for old in passes:
        if old.kd_weight is not None:
            old.kd_weight /= total
