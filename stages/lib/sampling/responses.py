"""Sampling of responses with a transformers model, the reference back end.

Randomness belongs to a response, not to a batch: every request carries a key, and the response's random
numbers are drawn from it beforehand. So batching, order and number of processes change no draw.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from padd_stages.lib.data.sequences import pad_rows
from padd_stages.lib.models.loading import LanguageModel
from padd_stages.lib.models.moe_adapter import MoEAdapter
from padd_stages.lib.models.policy import Policy
from padd_stages.lib.sampling.decoding import AnyWorking, Decoding
from padd_stages.lib.sampling.routes import RouteRecorder
from padd_stages.lib.sampling.token_draws import draw_tokens, logprobs_of, uniforms_from_keys

# Prompt tokens that take as long as a step of decoding takes for a batch of any size, since a step reads all weights.
# Chosen for GPUs and small models, where it is hundreds; a large model on CPUs has about 16.
PADDING_PER_STEP = 256


@dataclass(frozen=True)
class Request:
    """One response to sample: prompt token ids, and the key of its randomness, e.g. (seed, step, prompt, sample)."""

    prompt_ids: tuple[int, ...]
    key: tuple[int | str, ...]


@dataclass(frozen=True)
class Response:
    """Sampled token ids, the end-of-sequence token included; ``truncated`` if none came in time.

    Where asked for, ``logprobs`` are the tokens' log-probabilities at the sampling temperature before top_p, nats, and
    ``routes`` (L, prompt + response, K) the experts of each token of prompt and response.
    """

    token_ids: tuple[int, ...]
    truncated: bool
    logprobs: tuple[float, ...] = ()
    routes: Tensor | None = None


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters; temperature 0 is greedy."""

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0


OnBatch = Callable[[list[int], list[Response]], None]


class Engine(Protocol):
    """What samples in place of the model itself, such as a server."""

    def sample(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        *,
        eos_ids: list[int],
        on_batch: OnBatch | None = None,
        with_logprobs: bool = False,
        routed_by: MoEAdapter | None = None,
    ) -> list[Response]:
        """Sample one response a request; arguments as for :func:`sample`."""
        ...


def batches_by_tokens(requests: Sequence[Request], sampling: Sampling, batch_tokens: int) -> list[list[int]]:
    """Group the indices of requests into batches within the token budget, the longest prompts first.

    A batch is as wide as its longest prompt. It also ends where padding costs as much as the steps of another batch.
    Without the requests of the first batch the other batches are the same.
    """
    order = sorted(range(len(requests)), key=lambda i: -len(requests[i].prompt_ids))
    batches: list[list[int]] = []
    padding = 0
    for index in order:
        prompt = requests[index].prompt_ids
        if batches:
            batch = batches[-1]
            width = len(requests[batch[0]].prompt_ids)
            if prompt != requests[batch[-1]].prompt_ids:  # a prompt is computed once for all of its samples
                padding += width - len(prompt)
            fits = (len(batch) + 1) * (width + sampling.max_new_tokens) <= batch_tokens
            if fits and padding <= PADDING_PER_STEP * sampling.max_new_tokens:
                batch.append(index)
                continue
        batches.append([index])
        padding = 0
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
    on_batch: OnBatch | None = None,
    any_working: AnyWorking | None = None,
    with_logprobs: bool = False,
    routed_by: MoEAdapter | None = None,
) -> list[Response]:
    """Sample one response a request.

    Args:
        model: a transformers causal LM; a router bias acts through the adapter's hooks.
        batch_tokens: upper bound of rows x (prompt + new tokens) in one batch.
        on_batch: called after each batch with the indices of its requests and their responses.
        any_working: where processes share the model's weights, as for `Decoding`.
        with_logprobs: return the tokens' log-probabilities too.
        routed_by: the model's adapter; return the routes of the tokens too.

    Returns:
        Responses in the order of the requests.
    """
    responses: list[Response | None] = [None] * len(requests)
    was_training = model.training
    model.eval()
    for batch in batches_by_tokens(requests, sampling, batch_tokens):
        produced = _generate(
            model,
            [requests[i] for i in batch],
            sampling,
            eos_ids,
            pad_id,
            any_working,
            with_logprobs,
            routed_by,
        )
        for index, response in zip(batch, produced, strict=True):
            responses[index] = response
        if on_batch is not None:
            on_batch(batch, produced)
    while any_working is not None and any_working(False):
        model(torch.tensor([[pad_id]], device=model.device))
    model.train(was_training)
    return [response for response in responses if response is not None]


def respond(
    policy: Policy,
    language_model: LanguageModel,
    requests: Sequence[Request],
    sampling: Sampling,
    *,
    batch_tokens: int,
    on_batch: OnBatch | None = None,
    any_working: AnyWorking | None = None,
    with_logprobs: bool = False,
    with_routes: bool = False,
    engine: Engine | None = None,
) -> list[Response]:
    """Sample one response a request with a model that may be sharded; arguments as for `sample`.

    With ``engine`` that samples, and the model does not compute.
    """
    routed_by = language_model.adapter if with_routes else None
    if engine is not None:
        return engine.sample(
            requests,
            sampling,
            eos_ids=language_model.eos_ids,
            on_batch=on_batch,
            with_logprobs=with_logprobs,
            routed_by=routed_by,
        )
    return policy.run(
        lambda: sample(
            language_model.model,
            requests,
            sampling,
            eos_ids=language_model.eos_ids,
            pad_id=language_model.pad_id,
            batch_tokens=batch_tokens,
            on_batch=on_batch,
            any_working=any_working,
            with_logprobs=with_logprobs,
            routed_by=routed_by,
        )
    )


def _generate(
    model: Any,
    requests: list[Request],
    sampling: Sampling,
    eos_ids: list[int],
    pad_id: int,
    any_working: AnyWorking | None,
    with_logprobs: bool,
    routed_by: MoEAdapter | None,
) -> list[Response]:
    device = next(model.parameters()).device
    prompts = list(dict.fromkeys(request.prompt_ids for request in requests))
    row_of = {prompt: row for row, prompt in enumerate(prompts)}
    input_ids, attention_mask = pad_rows(prompts, pad_id, side="left")
    input_ids, attention_mask = input_ids.to(device), attention_mask.to(device)
    prompt_of = torch.tensor([row_of[request.prompt_ids] for request in requests], device=device)
    uniforms = uniforms_from_keys([request.key for request in requests], sampling.max_new_tokens).to(device)

    logprobs = torch.zeros(uniforms.shape, device=device) if with_logprobs else None

    def choose(logits: Tensor, rows: Tensor, count: int) -> Tensor:
        tokens = draw_tokens(logits, uniforms[rows, count], sampling.temperature, sampling.top_p)
        if logprobs is not None:
            logprobs[rows, count] = logprobs_of(logits, tokens, sampling.temperature)
        return tokens

    recorder = (
        None
        if routed_by is None
        else RouteRecorder(routed_by, prompt_of, attention_mask, sampling.max_new_tokens)
    )
    decoding = Decoding(
        model,
        prompt_of,
        sampling.max_new_tokens,
        eos_ids,
        pad_id,
        choose,
        any_working,
        recorder,
    )
    cut = [cut_response(row, eos_ids) for row in decoding.run(input_ids, attention_mask).tolist()]
    if logprobs is not None:
        cut = [
            replace(response, logprobs=tuple(row[: len(response.token_ids)]))
            for response, row in zip(cut, logprobs.tolist(), strict=True)
        ]
    if recorder is not None:
        cut = [
            replace(response, routes=recorder.of(number, len(response.token_ids)))
            for number, response in enumerate(cut)
        ]
    return cut


def cut_response(token_ids: Sequence[int], eos_ids: Sequence[int]) -> Response:
    """Cut a row of generated ids after its first end-of-sequence token."""
    for position, token in enumerate(token_ids):
        if token in eos_ids:
            return Response(tuple(token_ids[: position + 1]), truncated=False)
    return Response(tuple(token_ids), truncated=True)
