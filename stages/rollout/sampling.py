"""Sampling responses with transformers' ``generate``, the reference back end.

Randomness belongs to a response, not to a batch: every request carries a key, and the response's random
numbers are drawn from it beforehand. So batching, order and number of processes change no draw.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList


@dataclass(frozen=True)
class Request:
    """One response to sample: prompt token ids, and the key of its randomness, e.g. (seed, step, prompt, sample)."""

    prompt_ids: tuple[int, ...]
    key: tuple[int | str, ...]


@dataclass(frozen=True)
class Response:
    """Sampled token ids, the end-of-sequence token included; ``truncated`` if none came in time."""

    token_ids: tuple[int, ...]
    truncated: bool


@dataclass(frozen=True)
class Sampling:
    """How to sample; temperature 0 is greedy."""

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0


class KeyedSampler(LogitsProcessor):
    """Inverse-CDF sampling with random numbers fixed beforehand; leaves one finite score a row for argmax.

    Args:
        uniforms: (B, max_new_tokens) in [0, 1).
        prompt_length: columns before the first new token.
    """

    def __init__(self, uniforms: Tensor, prompt_length: int, sampling: Sampling) -> None:
        self.uniforms = uniforms
        self.prompt_length = prompt_length
        self.sampling = sampling

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """(B, V) scores -> (B, V) scores that are 0 at the drawn token and -inf elsewhere."""
        draw = self.uniforms[:, input_ids.shape[1] - self.prompt_length]
        probabilities = torch.softmax(scores.float() / self.sampling.temperature, dim=-1)
        if self.sampling.top_p < 1.0:
            tokens = sample_top_p(probabilities, draw, self.sampling.top_p)
        else:
            tokens = _inverse_cdf(probabilities, draw)
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens[:, None], 0.0)


def _inverse_cdf(probabilities: Tensor, draw: Tensor) -> Tensor:
    """First token whose cumulative probability exceeds the draw; (B, V), (B,) -> (B,)."""
    cumulative = probabilities.double().cumsum(-1)
    threshold = (draw.double() * cumulative[:, -1])[:, None]
    tokens = torch.searchsorted(cumulative, threshold, right=True).squeeze(1)
    return tokens.clamp_max(probabilities.shape[-1] - 1)


def sample_top_p(probabilities: Tensor, draw: Tensor, top_p: float) -> Tensor:
    """Nucleus sampling: the most probable tokens up to a mass of ``top_p``, renormalised by the draw."""
    ordered, tokens = probabilities.sort(dim=-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    kept = torch.where(before < top_p, ordered, torch.zeros_like(ordered))
    return tokens.gather(1, _inverse_cdf(kept, draw)[:, None]).squeeze(1)


def uniforms_of(keys: Sequence[tuple[int | str, ...]], count: int) -> Tensor:
    """(len(keys), count) fp64 uniforms, each row drawn from its key alone."""
    rows = []
    for key in keys:
        seed = int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "big") >> 1
        rows.append(torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    return torch.stack(rows)


def batches_by_tokens(requests: Sequence[Request], sampling: Sampling, batch_tokens: int) -> list[list[int]]:
    """Indices of requests in batches of like prompt length, the longest first, each within the token budget."""
    order = sorted(range(len(requests)), key=lambda i: -len(requests[i].prompt_ids))
    batches: list[list[int]] = []
    for index in order:
        if batches:
            longest = len(requests[batches[-1][0]].prompt_ids) + sampling.max_new_tokens
            if (len(batches[-1]) + 1) * longest <= batch_tokens:
                batches[-1].append(index)
                continue
        batches.append([index])
    return batches


@torch.no_grad()
def sample(
    model: Any,
    requests: Sequence[Request],
    sampling: Sampling,
    *,
    eos_ids: list[int],
    pad_id: int,
    batch_tokens: int,
    on_batch: Callable[[list[int], list[Response]], None] | None = None,
    in_step: Callable[[list[list[int]]], list[list[int]]] = list,
) -> list[Response]:
    """Sample one response a request.

    Args:
        model: a transformers causal LM; a router bias acts through the adapter's hooks.
        batch_tokens: upper bound of rows x (prompt + new tokens) in one call of ``generate``.
        on_batch: called after each batch with the indices of its requests and their responses.
        in_step: cuts batches further where a forward is a collective (`Processes.in_step`); ``generate`` itself goes
            on with empty steps until every process is done.

    Returns:
        Responses in the order of the requests.
    """
    responses: list[Response | None] = [None] * len(requests)
    was_training = model.training
    model.eval()
    for batch in in_step(batches_by_tokens(requests, sampling, batch_tokens)):
        produced = _generate(model, [requests[i] for i in batch], sampling, eos_ids, pad_id)
        for index, response in zip(batch, produced, strict=True):
            responses[index] = response
        if on_batch is not None:
            on_batch(batch, produced)
    model.train(was_training)
    return [response for response in responses if response is not None]


def _generate(
    model: Any, requests: list[Request], sampling: Sampling, eos_ids: list[int], pad_id: int
) -> list[Response]:
    device = next(model.parameters()).device
    width = max(len(request.prompt_ids) for request in requests)
    input_ids = torch.full((len(requests), width), pad_id, dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    for row, request in enumerate(requests):
        input_ids[row, width - len(request.prompt_ids) :] = torch.tensor(request.prompt_ids)
        attention_mask[row, width - len(request.prompt_ids) :] = 1
    processors = LogitsProcessorList()
    if sampling.temperature > 0:
        uniforms = uniforms_of([request.key for request in requests], sampling.max_new_tokens).to(device)
        processors.append(KeyedSampler(uniforms, width, sampling))
    generated = model.generate(
        input_ids=input_ids.to(device),
        attention_mask=attention_mask.to(device),
        logits_processor=processors,
        generation_config=_plain_generation(sampling.max_new_tokens, eos_ids, pad_id),
    )
    return [cut_response(row, eos_ids) for row in generated[:, width:].tolist()]


def _plain_generation(max_new_tokens: int, eos_ids: list[int], pad_id: int) -> GenerationConfig:
    """Greedy over the processed scores; spelled out, since ``generate`` fills gaps from the model's own file."""
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        max_new_tokens=max_new_tokens,
        min_new_tokens=0,
        eos_token_id=eos_ids,
        pad_token_id=pad_id,
        use_cache=True,
    )


def cut_response(token_ids: Sequence[int], eos_ids: Sequence[int]) -> Response:
    """Cut a row of generated ids after its first end-of-sequence token."""
    for position, token in enumerate(token_ids):
        if token in eos_ids:
            return Response(tuple(token_ids[: position + 1]), truncated=False)
    return Response(tuple(token_ids), truncated=True)
