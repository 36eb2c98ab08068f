"""Token draws with random numbers fixed beforehand, each response's from its own key."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def uniforms_from_keys(keys: Sequence[tuple[int | str, ...]], count: int) -> Tensor:
    """Draw fp64 uniforms (len(keys), count), each row from its key alone."""
    return torch.stack(
        [
            torch.rand(count, generator=torch.Generator().manual_seed(seed_of(key)), dtype=torch.float64)
            for key in keys
        ]
    )


def seed_of(key: tuple[int | str, ...]) -> int:
    """Return a key's seed, 63 bits."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "big") >> 1


def draw_tokens(logits: Tensor, uniforms: Tensor, temperature: float, top_p: float = 1.0) -> Tensor:
    """Draw tokens by the inverse CDF; the most probable ones at temperature 0.

    Args:
        logits: (B, V).
        uniforms: (B,) in [0, 1).

    Returns:
        (B,) token ids.
    """
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = torch.softmax(logits.float() / temperature, dim=-1)
    if top_p < 1.0:
        return _nucleus(probabilities, uniforms, top_p)
    return _inverse_cdf(probabilities, uniforms)


def logprobs_of(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """Return the log-probabilities (B,) of tokens (B,) among logits (B, V) at a temperature above 0, in nats."""
    scaled = logits.float() / temperature
    return scaled.gather(1, tokens[:, None]).squeeze(1) - scaled.logsumexp(-1)


def _inverse_cdf(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """Return the first token whose cumulative probability exceeds the draw; (B, V), (B,) -> (B,)."""
    cumulative = probabilities.double().cumsum(-1)
    threshold = (uniforms.double() * cumulative[:, -1])[:, None]
    tokens = torch.searchsorted(cumulative, threshold, right=True).squeeze(1)
    return tokens.clamp_max(probabilities.shape[-1] - 1)


def _nucleus(probabilities: Tensor, uniforms: Tensor, top_p: float) -> Tensor:
    """Draw from the most probable tokens up to a mass of ``top_p``, renormalised by the draw."""
    ordered, tokens = probabilities.sort(dim=-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    kept = torch.where(before < top_p, ordered, torch.zeros_like(ordered))
    return tokens.gather(1, _inverse_cdf(kept, uniforms)[:, None]).squeeze(1)
