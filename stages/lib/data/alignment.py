"""Token positions of one text under two tokenizers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from padd_artifacts.errors import PaddError

Positions = NDArray[np.int64]


def require_offsets(tokenizer: Any) -> None:
    """Refuse a slow tokenizer, which returns no character offsets.

    Raises:
        PaddError: it is one.
    """
    if not tokenizer.is_fast:
        raise PaddError(
            f"{type(tokenizer).__name__} is a slow tokenizer without character offsets, so its tokens cannot be "
            "aligned with another model's; save the model with its fast tokenizer (tokenizer.json)."
        )


def align(first: Sequence[int], second: Sequence[int]) -> Positions:
    """Pair the tokens of one text under two tokenizers by their character ends.

    Args:
        first, second: the end of each token; a negative end is none.

    Returns:
        Positions (2, pairs) of tokens with equal ends; of several tokens with one end (bytes) the last.
    """
    places = [{end: i for i, end in enumerate(ends) if end >= 0} for ends in (first, second)]
    common = sorted(places[0].keys() & places[1].keys())
    return np.array([[place[end] for end in common] for place in places], dtype=np.int64).reshape(2, -1)
