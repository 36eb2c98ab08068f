"""One rollout: sampled responses of a group of prompts, their rewards and advantages."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from padd_stages.data.grading import Grader
from padd_stages.data.prompts import prompt_ids
from padd_stages.data.rewards import format_reward
from padd_stages.data.sequences import TokenSequence
from padd_stages.models.loading import LanguageModel
from padd_stages.objectives.advantages import group_advantages
from padd_stages.options.train import TrainOptions
from padd_stages.rollout.sampling import Request, Response, Sampling, sample


@dataclass(frozen=True)
class Prompt:
    """A problem as the student reads it, and as the teacher does."""

    row: dict[str, Any]
    student_ids: tuple[int, ...]
    teacher_ids: tuple[int, ...]


@dataclass
class Rollout:
    """P prompts x G responses, flat in prompt order; B = P * G.

    Attributes:
        correct: (B,) the grader's verdict, 0 for a truncated response.
        advantages: (B,).
    """

    prompts: list[Prompt]
    sequences: list[TokenSequence]
    texts: list[str]
    rewards: Tensor
    correct: Tensor
    advantages: Tensor
    metrics: dict[str, float] = field(default_factory=dict)


def make_prompts(
    rows: list[dict[str, Any]], student: LanguageModel, teacher: LanguageModel | None, options: TrainOptions
) -> tuple[list[Prompt], int]:
    """Tokenise problems once; returns the prompts and how many were longer than allowed."""
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


def collect(
    student: LanguageModel, prompts: list[Prompt], grader: Grader, options: TrainOptions, step: int
) -> Rollout:
    """Sample n responses to each prompt with the current student, grade them, compute advantages."""
    repeated = [prompt for prompt in prompts for _ in range(options.num_generations)]
    requests = [
        Request(
            prompt.student_ids, (options.seed, step, str(prompt.row["id"]), index % options.num_generations)
        )
        for index, prompt in enumerate(repeated)
    ]
    responses = sample(
        student.model,
        requests,
        Sampling(options.max_completion_length, options.temperature, options.top_p),
        eos_ids=student.eos_ids,
        pad_id=student.pad_id,
        batch_tokens=options.generation_batch_tokens,
    )
    texts = [student.tokenizer.decode(r.token_ids, skip_special_tokens=True) for r in responses]
    verdicts = grader.grade(
        [(text, prompt.row["answer"]) for text, prompt in zip(texts, repeated, strict=True)]
    )
    whole = torch.tensor([float(not response.truncated) for response in responses])
    correct = torch.tensor([float(verdict.correct) for verdict in verdicts]) * whole
    rewards = options.accuracy_weight * correct
    if options.format_weight > 0:
        problems = [prompt.row["problem"] for prompt in repeated]
        formats = format_reward(problems, texts, [list(response.token_ids) for response in responses])
        rewards = rewards + options.format_weight * torch.tensor([float(f or 0.0) for f in formats]) * whole
    groups = rewards.view(len(prompts), options.num_generations)
    advantages, metrics = group_advantages(groups, options.scale_rewards)
    return Rollout(
        prompts=repeated,
        sequences=[
            TokenSequence(prompt.student_ids, response.token_ids)
            for prompt, response in zip(repeated, responses, strict=True)
        ],
        texts=texts,
        rewards=rewards,
        correct=correct,
        advantages=advantages.flatten(),
        metrics={name: float(value) for name, value in metrics.items()}
        | {
            "accuracy": float(correct.mean()),
            "grading/timeouts": sum(v.reason == "timeout" for v in verdicts),
        }
        | _length_metrics(responses),
    )


def _length_metrics(responses: list[Response]) -> dict[str, float]:
    lengths = [len(response.token_ids) for response in responses]
    return {
        "completions/mean_length": sum(lengths) / len(lengths),
        "completions/max_length": max(lengths),
        "completions/clipped_ratio": sum(response.truncated for response in responses) / len(responses),
    }
