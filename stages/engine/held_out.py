"""Loss and accuracy on held-out rows, under the student's own top-K routing and under uniform routing."""

from contextlib import nullcontext
from typing import Any

import torch

from padd_stages.data.grading import Grader
from padd_stages.data.sequences import TokenSequence, collate, micro_batches
from padd_stages.engine.passes import token_logprobs
from padd_stages.models.loading import LanguageModel
from padd_stages.models.policy import Policy
from padd_stages.options.warmup import WarmupOptions
from padd_stages.rollout.sampling import Request, Sampling, sample


@torch.no_grad()
def mean_loss(
    policy: Policy, student: LanguageModel, sequences: list[TokenSequence], token_budget: int
) -> float:
    """Mean next-token cross-entropy of the solutions' tokens, in nats."""
    device = policy.head.weight.device
    total, tokens = 0.0, 0
    for members in micro_batches([len(sequence) for sequence in sequences], token_budget):
        batch = collate([sequences[i] for i in members], student.pad_id, device)
        logprobs = policy(
            batch.input_ids,
            batch.attention_mask,
            batch.select,
            lambda hidden, head, batch=batch: token_logprobs(hidden, head, batch, 1.0)[0],
        )
        total -= float(logprobs.sum())
        tokens += logprobs.numel()
    return total / max(tokens, 1)


def greedy_accuracy(
    student: LanguageModel,
    rows: list[dict[str, Any]],
    prompts: list[tuple[int, ...]],
    grader: Grader,
    options: WarmupOptions,
) -> float:
    """Share of problems whose one greedy response is right."""
    responses = sample(
        student.model,
        [Request(prompt, ()) for prompt in prompts],
        Sampling(options.max_new_tokens, temperature=0.0),
        eos_ids=student.eos_ids,
        pad_id=student.pad_id,
        batch_tokens=options.generation_batch_tokens,
    )
    texts = [student.tokenizer.decode(r.token_ids, skip_special_tokens=True) for r in responses]
    verdicts = grader.grade([(text, row["answer"]) for text, row in zip(texts, rows, strict=True)])
    right = [v.correct and not r.truncated for v, r in zip(verdicts, responses, strict=True)]
    return sum(right) / len(right)


def held_out_report(
    policy: Policy,
    student: LanguageModel,
    rows: list[dict[str, Any]],
    sequences: list[TokenSequence],
    grader: Grader,
    options: WarmupOptions,
) -> dict[str, dict[str, float]]:
    """Loss and greedy accuracy under ``topk`` and ``uniform`` routing (docs/METHOD.md, section 3)."""
    assert student.adapter is not None
    prompts = [sequence.prompt_ids for sequence in sequences]
    report = {}
    for routing in ("topk", "uniform"):
        with student.adapter.uniform() if routing == "uniform" else nullcontext():
            report[routing] = {
                "loss": mean_loss(policy, student, sequences, options.micro_batch_tokens),
                "accuracy": greedy_accuracy(student, rows, prompts, grader, options),
            }
    return report
