"""One rollout: its prompts and responses, their rewards and advantages."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from padd_stages.lib.data.prompts import prompt_ids
from padd_stages.lib.data.sequences import TokenSequence
from padd_stages.lib.models.loading import LanguageModel
from padd_stages.lib.objectives.advantages import group_advantages
from padd_stages.lib.sampling.responses import Response
from padd_stages.train.options import TrainOptions
from padd_stages.train.reward_functions import Scores

# Share of the greatest length in which --truncated soft lets a reward fall; DAPO's 4,096 of 20,480.
SOFT_SHARE = 0.2
# Names that a reward function gets as arguments of their own, or that TRL keeps from it.
TRL_ARGUMENTS = ("prompt", "prompts", "completion", "completions", "completion_ids", "truncated")


@dataclass(frozen=True)
class Prompt:
    """A problem in the student's tokens and in the teacher's."""

    row: dict[str, Any]
    student_ids: tuple[int, ...]
    teacher_ids: tuple[int, ...]


@dataclass
class Rollout:
    """P prompts x G responses of all processes, flat in prompt order; B = P * G.

    Every process holds all of it (it is text and numbers) and makes updates on its share, which is whole groups.

    Attributes:
        share: this process's of the B responses.
        truncated: (B,).
        sampler_logprobs: of each response's tokens, at the rollout's temperature.
        scores: of each reward function, (B,), None where it does not apply.
        rewards: (B,), their weighted sum, NaN where none applies.
        correct: (B,) the grader's verdict, 0 for a truncated response.
        advantages: (B,), 0 where there is no reward.
        routes: (L, prompt + response, K) of the sampler for this process's share, in order; empty unless replayed.
    """

    prompts: list[Prompt]
    share: list[int]
    sequences: list[TokenSequence]
    texts: list[str]
    truncated: list[bool]
    sampler_logprobs: list[tuple[float, ...]]
    scores: dict[str, Scores]
    rewards: Tensor
    correct: Tensor
    advantages: Tensor
    routes: list[Tensor] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)

    def table(self, step: int, count: int) -> list[dict[str, Any]]:
        """Return the first ``count`` responses as rows of samples.jsonl."""
        return [
            {
                "step": step,
                "prompt": self.prompts[i].row["problem"],
                "response": self.texts[i],
                "reward": None if self.rewards[i].isnan() else float(self.rewards[i]),
                **{f"rewards/{name}": scores[i] for name, scores in self.scores.items()},
                "advantage": float(self.advantages[i]),
                "truncated": self.truncated[i],
                "tokens": len(self.sequences[i].response_ids),
            }
            for i in range(min(count, len(self.texts)))
        ]


def make_prompts(
    rows: list[dict[str, Any]], student: LanguageModel, teacher: LanguageModel | None, options: TrainOptions
) -> tuple[list[Prompt], int]:
    """Tokenise problems once; return the prompts and how many were longer than allowed."""
    prompts = []
    for row in rows:
        ids = prompt_ids(student.tokenizer, row["problem"], system=options.system, thinking=options.thinking)
        if len(ids) > options.max_prompt_length:
            continue
        teacher_ids: list[int] = []
        if teacher is not None:
            teacher_ids = prompt_ids(teacher.tokenizer, row["problem"], system=options.system, thinking=False)
        prompts.append(Prompt(row, tuple(ids), tuple(teacher_ids)))
    return prompts, len(rows) - len(prompts)


def counted_rewards(rewards: Tensor, *, truncated: Tensor, lengths: Tensor, options: TrainOptions) -> Tensor:
    """Return what the rewards (B,) count after --truncated; NaN of a response that is left out.

    Source: soft, the soft overlong punishment of DAPO (arXiv 2503.14476): 0 up to 4/5 of the greatest length, then
    falling to -1 at it.
    """
    if options.truncated == "zero":
        return torch.where(truncated & ~rewards.isnan(), 0.0, rewards)
    if options.truncated == "mask":
        return torch.where(truncated, math.nan, rewards)
    if options.truncated == "keep":
        return rewards
    longest = options.max_completion_length
    span = SOFT_SHARE * longest
    return rewards - ((lengths - (longest - span)) / span).clamp(0.0, 1.0)


def scored_advantages(groups: Tensor, scale: Literal["group", "none"]) -> tuple[Tensor, dict[str, float]]:
    """Compute group advantages (P, G) where a response without a reward (NaN) gets 0 and enters no mean, as in TRL.

    A group with fewer than two rewards teaches nothing: all its advantages are 0.

    Returns:
        The advantages, and the metrics of `group_advantages`; NaN if there is no reward at all.
    """
    if not bool(groups.isnan().any()):
        advantages, metrics = group_advantages(groups, scale)
        return advantages, {name: float(value) for name, value in metrics.items()}
    advantages, parts = torch.zeros_like(groups), []
    for row, rewards in enumerate(groups):
        scored = ~rewards.isnan()
        if int(scored.sum()) > 1:
            values, metrics = group_advantages(rewards[scored][None], scale)
            advantages[row, scored] = values[0]
            parts.append(metrics)
    means = {
        name: float(torch.stack([part[name] for part in parts]).mean()) if parts else math.nan
        for name in ("reward_std", "frac_reward_zero_std")
    }
    return advantages, {"reward": float(groups.nanmean()), **means}


def reward_columns(prompts: list[Prompt]) -> dict[str, list[Any]]:
    """Return the columns of the problems, the source's own among them; None where a problem lacks one."""
    rows = [prompt.row.get("extra", {}) | prompt.row for prompt in prompts]
    names = dict.fromkeys(name for row in rows for name in row if name != "extra")
    return {name: [row.get(name) for row in rows] for name in names if name not in TRL_ARGUMENTS}


def score_tensor(scores: Scores) -> Tensor:
    """Return scores (B,) as numbers, NaN where one does not apply."""
    return torch.tensor([math.nan if score is None else score for score in scores])


def score_metrics(scores: dict[str, Scores]) -> dict[str, float]:
    """Compute mean and standard deviation (ddof 1) of each reward over the responses that it applies to."""
    metrics = {}
    for name, values in scores.items():
        applied = score_tensor([value for value in values if value is not None])
        metrics[f"rewards/{name}/mean"] = float(applied.mean())
        metrics[f"rewards/{name}/std"] = float(applied.std()) if len(applied) > 1 else math.nan
    return metrics


def length_metrics(responses: list[Response]) -> dict[str, float]:
    """Return mean and greatest length in tokens, and the share of responses that were truncated; TRL's names."""
    lengths = [len(response.token_ids) for response in responses]
    return {
        "completions/mean_length": sum(lengths) / len(lengths),
        "completions/max_length": max(lengths),
        "completions/clipped_ratio": sum(response.truncated for response in responses) / len(responses),
    }
