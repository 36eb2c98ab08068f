"""Supervised pre-training of a toy model on worked solutions."""

import math
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from padd_stages.lib.compat.transformers import balancing_loss
from padd_stages.lib.runtime.reporter import SILENT, Reporter

Example = tuple[list[int], list[int]]  # the ids of a prompt, and of its solution with the end token

_IGNORED = -100  # cross_entropy's own mark of a position without a label


@dataclass(frozen=True)
class Schedule:
    """Length and rate of a training; `corrupted` is the share of solutions with one wrong number."""

    steps: int
    learning_rate: float
    seed: int
    batch_size: int = 128
    warmup_steps: int = 50  # without a warm-up Adam's first steps ruin the model (measured)
    corrupted: float = 0.0


def corrupt(solution: str, rng: random.Random) -> str:
    """Return the solution with one digit of one of its numbers replaced by another one."""
    number = rng.choice(list(re.finditer(r"\d+", solution)))
    place = rng.randrange(*number.span())
    wrong = rng.choice([digit for digit in "0123456789" if digit != solution[place]])
    return solution[:place] + wrong + solution[place + 1 :]


def prompt_text(tokenizer: Any, problem: str) -> str:
    """Return a problem inside the chat template, up to where the answer begins."""
    turns = [{"role": "user", "content": problem}]
    return str(tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))


def _examples(tokenizer: Any, rows: list[dict[str, str]], schedule: Schedule) -> Iterator[Example]:
    """Yield endless examples; every pass is shuffled and corrupted anew."""
    rng = random.Random(schedule.seed)
    prompts = [tokenizer(prompt_text(tokenizer, row["problem"])).input_ids for row in rows]
    order = list(range(len(rows)))
    while True:
        rng.shuffle(order)
        for index in order:
            solution = rows[index]["solution"]
            if rng.random() < schedule.corrupted:
                solution = corrupt(solution, rng)
            yield prompts[index], [*tokenizer(solution).input_ids, tokenizer.eos_token_id]


def _collate(batch: list[Example], pad: int) -> tuple[Tensor, Tensor]:
    """Pad ids and labels on the right, (B, T) each; only the solution and its end token have labels."""
    width = max(len(prompt) + len(solution) for prompt, solution in batch)
    ids = torch.full((len(batch), width), pad)
    labels = torch.full((len(batch), width), _IGNORED)
    for row, (prompt, solution) in enumerate(batch):
        end = len(prompt) + len(solution)
        ids[row, :end] = torch.tensor(prompt + solution)
        labels[row, len(prompt) : end] = torch.tensor(solution)
    return ids, labels


def learning_rate_share(step: int, schedule: Schedule) -> float:
    """Return the share of the peak rate: linear warm-up, then a half cosine down to zero."""
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    progress = (step - schedule.warmup_steps) / (schedule.steps - schedule.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * progress))


def _losses(model: Any, ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the training loss (balancing included) and the mean cross-entropy over a batch's solution tokens.

    Padding is on the right, where causal attention never looks, so the model is given no mask (a fifth faster);
    the balancing loss is, which would count padding as tokens.
    """
    weight = getattr(model.config, "router_aux_loss_coef", 0.0)
    out = model(input_ids=ids, **({"output_router_logits": True} if weight else {}))
    logits = out.logits[:, :-1].flatten(0, 1)  # (B * (T - 1), V)
    entropy = cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=_IGNORED)
    if not weight:
        return entropy, entropy
    mask = torch.ne(ids, model.config.pad_token_id).long()
    sizes = (model.config.num_experts, model.config.num_experts_per_tok)
    return entropy + weight * balancing_loss(out.router_logits, *sizes, mask), entropy


def pretrain(
    model: Any,
    tokenizer: Any,
    rows: list[dict[str, str]],
    schedule: Schedule,
    reporter: Reporter = SILENT,
) -> float:
    """Train in place on worked solutions; a mixture of experts with its configuration's balancing loss on top.

    The weights end up rounded to bfloat16 (in float32 still), so that what is shipped is what was measured.

    Returns:
        The mean cross-entropy (nats per solution token) over the last 50 steps.
    """
    peak = schedule.learning_rate
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_share(step, schedule))
    examples = _examples(tokenizer, rows, schedule)
    model.train()
    entropies: list[float] = []
    reporter.phase(f"pre-training {type(model).__name__}", total=schedule.steps)
    for step in range(schedule.steps):
        batch = [next(examples) for _ in range(schedule.batch_size)]
        loss, entropy = _losses(model, *_collate(batch, tokenizer.pad_token_id))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        entropies.append(entropy.item())
        reporter.advance(line=f"step {step + 1}/{schedule.steps} loss {entropies[-1]:.4f}")
    with torch.no_grad():
        for parameter in model.parameters():  # not model.to(), which would round the rotary frequencies too
            parameter.copy_(parameter.to(torch.bfloat16))
    tail = entropies[-50:]
    return sum(tail) / len(tail)
