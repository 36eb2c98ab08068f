"""Sample texts with the expert of every token."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from padd_artifacts.artifact import open_artifact
from padd_artifacts.manifest import MANIFEST_NAME
from padd_stages.analyze_experts.checkpoint_shift import first_experts
from padd_stages.analyze_experts.probe import TokenRoutes
from padd_stages.analyze_experts.texts import Row
from padd_stages.lib.data.alignment import require_offsets
from padd_stages.lib.data.prompts import prompt_text
from padd_stages.lib.data.subdomains import keyword_label
from padd_stages.lib.models.frozen import FrozenModel

SAMPLES = 6
SAMPLE_TOKENS = 512  # chosen: what a page can show
RESPONSES_FILE = "samples.jsonl"  # of padd train


@dataclass(frozen=True)
class Sample:
    """A text to show: a problem and what follows it, a response with its reward or a worked solution."""

    problem: str
    continuation: str
    subdomain: str
    reward: float | None


def pick_samples(student: str, rows: Sequence[Row]) -> list[Sample]:
    """Pick a trained artifact's last responses, one a problem; else rows of different subdomains."""
    responses = _responses(student)
    if responses:
        last = {row["prompt"]: row for row in responses}  # a later row of a problem takes its place ...
        newest = sorted(last.values(), key=lambda row: -row["step"])[
            :SAMPLES
        ]  # ... and the newest problems are shown
        return [Sample(r["prompt"], r["response"], keyword_label(r["prompt"]), r["reward"]) for r in newest]
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row.subdomain, row)
    chosen = list(first.values())[:SAMPLES]
    return [Sample(row.problem, row.solution or "", row.subdomain, None) for row in chosen]


def _responses(student: str) -> list[dict[str, Any]]:
    if not (Path(student) / MANIFEST_NAME).is_file():
        return []
    artifact = open_artifact(student, check=False)
    return artifact.jsonl(RESPONSES_FILE) if RESPONSES_FILE in artifact.manifest.files else []


@torch.no_grad()
def samples_json(
    student: FrozenModel, samples: Sequence[Sample], *, system: str, thinking: bool
) -> dict[str, Any]:
    """Return ``samples.json``: the decoder layers of the MoE layers, and texts cut after ``SAMPLE_TOKENS``.

    tokens: pieces of the text, which together are the text; a token inside a character is empty. prompt_tokens: how
    many of them are the prompt. experts, probability: by MoE layer, each token's first expert and its router
    probability.
    """
    adapter = student.loaded.adapter
    assert adapter is not None
    shown = [_sample_json(student, sample, system=system, thinking=thinking) for sample in samples]
    return {"layers": [layer.layer_index for layer in adapter.layers], "samples": shown}


def _sample_json(student: FrozenModel, sample: Sample, *, system: str, thinking: bool) -> dict[str, Any]:
    adapter, tokenizer = student.loaded.adapter, student.loaded.tokenizer
    assert adapter is not None
    prompt = prompt_text(tokenizer, sample.problem, system=system, thinking=thinking)
    first, pieces = _pieces(tokenizer, prompt, special=not tokenizer.chat_template)
    second, others = _pieces(tokenizer, sample.continuation, special=False)
    ids = torch.tensor([(first + second)[:SAMPLE_TOKENS]])
    with adapter.trace() as trace:
        student.run_body(ids, torch.ones_like(ids))
    routes = TokenRoutes(trace.probs.cpu(), trace.indices.to("cpu", torch.int16))
    experts = first_experts(routes)  # (L, T)
    probability = routes.probs.gather(-1, experts.unsqueeze(-1)).squeeze(-1)
    return {
        "problem": sample.problem,
        "subdomain": sample.subdomain,
        "reward": sample.reward,
        "tokens": (pieces + others)[:SAMPLE_TOKENS],
        "prompt_tokens": min(len(first), SAMPLE_TOKENS),
        "experts": experts.tolist(),
        "probability": [[round(p, 3) for p in layer] for layer in probability.tolist()],
    }


def _pieces(tokenizer: Any, text: str, *, special: bool) -> tuple[list[int], list[str]]:
    """Tokenise a text; return the token ids, and the piece of the text up to where each ends."""
    require_offsets(tokenizer)
    encoded = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
    pieces, start = [], 0
    for _, end in encoded["offset_mapping"]:
        stop = max(start, end)
        pieces.append(text[start:stop])
        start = stop
    if pieces:
        pieces[-1] += text[start:]
    return list(encoded["input_ids"]), pieces
