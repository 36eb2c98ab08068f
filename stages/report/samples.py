"""Sample responses as tokens with their experts, for a template."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

GOLDEN_ANGLE = 137.508  # degrees: neighbouring expert numbers get hues far apart, however many there are


@dataclass(frozen=True)
class Token:
    """A piece of text; ``experts`` and ``probabilities`` are its top-1 expert and its G in each MoE layer."""

    text: str
    experts: list[int]
    probabilities: list[float]
    prompt: bool

    @property
    def hue(self) -> int:
        """Hue of the first layer's expert, in degrees."""
        return hue(self.experts[0])


@dataclass(frozen=True)
class Sample:
    """One text; ``expert_counts`` are the experts of the first layer, the most frequent first, with their tokens."""

    heading: str
    reward: float | None
    tokens: list[Token]
    expert_counts: list[tuple[int, int]]


def hue(expert: int) -> int:
    """Return an expert's hue, in degrees."""
    return round(expert * GOLDEN_ANGLE) % 360


def read_samples(content: dict[str, Any]) -> list[Sample]:
    """Return the samples of a ``samples.json``."""
    return [_sample(row) for row in content["samples"]]


def _sample(row: dict[str, Any]) -> Sample:
    tokens = [
        Token(
            text,
            [layer[i] for layer in row["experts"]],
            [layer[i] for layer in row["probability"]],
            prompt=i < row["prompt_tokens"],
        )
        for i, text in enumerate(row["tokens"])
    ]
    counts = Counter(token.experts[0] for token in tokens)
    return Sample(row["subdomain"], row["reward"], tokens, counts.most_common())
