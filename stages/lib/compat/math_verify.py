"""Interfaces of math-verify: its time limits switched off, its fallback for text that is not LaTeX left out."""

import functools
import logging
from typing import Any

from padd_stages.lib.compat.probes import Library, Probe


@functools.cache
def _module() -> Any:
    import math_verify

    logging.disable(logging.CRITICAL)  # it warns that its own time limits are off; ours is the parent's
    return math_verify


def parse(text: str, *, boxed: bool) -> list[Any]:
    """Return the expressions of a text: SymPy objects, and the texts that they were made of.

    boxed: of a box alone; else it would take the last number in the text for the answer.
    """
    found = {"extraction_config": [_module().LatexExtractionConfig()]} if boxed else {}
    return _module().parse(text, parsing_timeout=None, **found)


def verify(gold: list[Any], prediction: list[Any]) -> bool:
    """Return whether two parsed answers are equal; not symmetric."""
    return _module().verify(gold, prediction, timeout_seconds=None)


def _check() -> None:
    half, same, other = (parse(f"\\boxed{{{text}}}", boxed=True) for text in ("1/2", "0.5", "0.25"))
    if not verify(half, same) or verify(half, other):
        raise RuntimeError("it does not tell 1/2 = 0.5 from 1/2 = 0.25")
    if not half[0].is_number or not isinstance(half[-1], str):
        raise RuntimeError(f"it parses 1/2 as {half}, which is no number with its text")
    if not parse("it is 7", boxed=False) or parse("it is 7", boxed=True):
        raise RuntimeError("it takes a number without a box for a boxed one")


LIBRARY = Library(
    "math-verify",
    (
        Probe(
            "`parse(parsing_timeout=, extraction_config=)`, `verify(timeout_seconds=)`, `LatexExtractionConfig`",
            "grade answers",
            _check,
        ),
    ),
)
