"""Assignment of problems to subsets by their own text and the seed (docs/METHOD.md, section 1). Pure functions."""

import hashlib
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, get_args

from padd_artifacts.errors import UsageError
from padd_stages.lib.data.problems import Row, _encode, normalise

Subset = Literal["a", "b", "c", "d"]
SUBSETS: tuple[Subset, ...] = get_args(Subset)
RATIO_TOLERANCE = 1e-6  # chosen: decimal fractions that people type add up to 1 within this


@dataclass(frozen=True)
class Duplicate:
    """A row left out because an earlier one states the same problem."""

    id: str
    kept_id: str
    same_answer: bool


def hash_position(problem: str, seed: int) -> float:
    """Hash a problem's normalised text to a position in [0, 1), keyed by the seed (53 bits)."""
    key = f"padd-split-{seed}".encode()
    digest = hashlib.blake2b(_encode(normalise(problem)), digest_size=8, key=key).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def check_ratios(ratios: Sequence[float]) -> None:
    """Refuse ratios that are not four shares of one whole.

    Raises:
        UsageError: not four, a negative one, or a sum other than 1.
    """
    shown = " + ".join(f"{ratio:g}" for ratio in ratios)
    if len(ratios) != len(SUBSETS) or any(not ratio >= 0 for ratio in ratios):
        raise UsageError(
            f"the ratios are {shown or 'empty'} where four numbers from 0 up are needed (subsets A, B, C and D), "
            "so no problem can be placed; the default is 0.1 0.2 0.65 0.05."
        )
    total = math.fsum(ratios)
    if abs(total - 1) > RATIO_TOLERANCE:
        raise UsageError(
            f"the ratios {shown} add up to {total:g} where 1 is needed, so problems would be lost or counted twice; "
            "change one of them."
        )


def assign(
    problems: Sequence[str], ratios: Sequence[float], seed: int, *, exact: bool = False
) -> list[Subset]:
    """Assign each problem to a subset.

    Args:
        problems: problem texts; equal ones after :func:`normalise` should have been removed.
        ratios: shares of A, B, C and D.
        seed: keys the hash.
        exact: cut the problems, sorted by hash, at the exact counts; a problem's subset then depends on the others.

    Raises:
        UsageError: see :func:`check_ratios`.
    """
    check_ratios(ratios)
    total = math.fsum(ratios)
    edges = [edge / total for edge in accumulate(ratios)]
    edges[-1] = 1.0
    places = [hash_position(problem, seed) for problem in problems]
    if exact:
        order = sorted(range(len(problems)), key=lambda index: (places[index], normalise(problems[index])))
        places = [0.0] * len(problems)
        for rank, index in enumerate(order):
            places[index] = rank / len(problems)
        edges = [round(edge * len(problems)) / max(1, len(problems)) for edge in edges]
    return [SUBSETS[bisect_right(edges, place)] for place in places]


def deduplicate(rows: Sequence[Row]) -> tuple[list[Row], list[Duplicate]]:
    """Keep the first row of each problem; rows need ``id``, ``problem`` and ``answer``."""
    first: dict[str, Row] = {}
    duplicates: list[Duplicate] = []
    for row in rows:
        kept = first.setdefault(normalise(row["problem"]), row)
        if kept is not row:
            duplicates.append(Duplicate(row["id"], kept["id"], kept["answer"] == row["answer"]))
    return list(first.values()), duplicates
