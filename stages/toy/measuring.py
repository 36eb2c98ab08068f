"""Accuracy and size of a toy model."""

import re
from collections import defaultdict
from fractions import Fraction
from typing import Any

import torch

from padd_stages.lib.measures.load import expert_load
from padd_stages.toy.pretraining import prompt_text

MAX_NEW_TOKENS = 64  # the longest solution has 49
_BATCH = 256  # chosen: fits any machine, and larger ones are no faster on two cores


def boxed_answer(response: str) -> Fraction | None:
    """Return the number in the last box of a response; None when there is none or it is no number."""
    boxes = re.findall(r"\\boxed\{(-?\d+(?:/0*[1-9]\d*)?)\}", response)
    return Fraction(boxes[-1]) if boxes else None


def respond(
    model: Any,
    tokenizer: Any,
    problems: list[str],
    *,
    sampled: bool = False,
    seed: int = 0,
) -> list[str]:
    """Generate one response to each problem: greedy, or sampled at temperature 1 from the whole vocabulary.

    The responses hold no special tokens. A response that did not stop has MAX_NEW_TOKENS tokens.
    """
    how = (
        {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0} if sampled else {"do_sample": False}
    )
    texts = [prompt_text(tokenizer, problem) for problem in problems]
    model.eval()
    responses: list[str] = []
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for start in range(0, len(texts), _BATCH):
            part = texts[start : start + _BATCH]
            batch = tokenizer(part, padding=True, padding_side="left", return_tensors="pt")
            out = model.generate(**batch, max_new_tokens=MAX_NEW_TOKENS, **how)
            responses += tokenizer.batch_decode(out[:, batch.input_ids.shape[1] :], skip_special_tokens=True)
    return responses


def accuracy(
    model: Any,
    tokenizer: Any,
    rows: list[dict[str, str]],
    *,
    sampled: bool = False,
    seed: int = 0,
) -> dict[str, float]:
    """Compute the share of rows solved: over all of them under "all", and under the name of each subdomain."""
    responses = respond(model, tokenizer, [row["problem"] for row in rows], sampled=sampled, seed=seed)
    hits: dict[str, list[bool]] = defaultdict(list)
    for row, response in zip(rows, responses, strict=True):
        hit = boxed_answer(response) == Fraction(row["answer"])
        hits["all"].append(hit)
        hits[row["subject"]].append(hit)
    return {name: round(sum(found) / len(found), 4) for name, found in hits.items()}


def parameter_counts(model: Any) -> dict[str, int]:
    """Count all parameters, and those that act on one token: of the routed experts only the active share does."""
    total = sum(parameter.numel() for parameter in model.parameters())
    experts = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
    if not experts:
        return {"total": total, "active": total}
    config = model.config
    active = experts * config.num_experts_per_tok // config.num_experts
    return {"total": total, "active": total - experts + active}


def expert_loads(model: Any, tokenizer: Any, rows: list[dict[str, str]]) -> list[list[float]]:
    """Compute each expert's share of the routed tokens of problems with their solutions, by layer, (L, N)."""
    config = model.config
    texts = [prompt_text(tokenizer, row["problem"]) + row["solution"] for row in rows]
    batch = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    with torch.no_grad():
        out = model(**batch, output_router_logits=True)
    kept = batch.attention_mask.flatten().bool()
    loads: list[list[int]] = []
    for logits in out.router_logits:  # (B * T, N) each
        chosen = logits[kept].topk(config.num_experts_per_tok).indices
        loads.append(torch.bincount(chosen.flatten(), minlength=config.num_experts).tolist())
    return expert_load(loads).share.round(4).tolist()
