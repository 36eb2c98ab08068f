"""One answer against its gold, by math-verify and what it lacks; runs in a process that can be killed."""

import functools
import re
from typing import Any

from padd_stages.lib.compat.math_verify import parse, verify
from padd_stages.lib.grading.gold import Gold
from padd_stages.lib.grading.notation import readable, readings, separate

GOLD_CACHE = 4_096  # chosen: a rollout step asks for each gold as often as it has samples
SMALL = 1e-2  # measured: math-verify compares 6 decimals, which below this are fewer than 4 digits
SMALL_ERROR = 1e-4  # chosen: what 6 decimals are at SMALL, relative to the gold
ROUNDING = 1e-9  # chosen: 4.3 is within 0.1 of 4.2, whatever floating point says
_IN_BASE = re.compile(r"\w+_\{\d+\}", re.ASCII)


def judge(prediction: str, gold: Gold, boxed: bool) -> tuple[str, str | None]:
    """Compare one prediction with its gold; no time limit here.

    Args:
        prediction: content of a box, or the text of a whole response when ``boxed`` is false.
        gold: its answers are put into boxes, because bare ones misparse.

    Returns:
        ("match" | "different" | "no-answer", what math-verify took from a text that was not boxed).
    """
    found = None
    try:
        if boxed:
            prediction = readable(prediction, gold.unit)
            right = any(_agrees(prediction, answer, gold) for answer in gold.answers)
        elif parsed := parse(prediction, boxed=False):
            found = next((each for each in reversed(parsed) if isinstance(each, str)), None)
            right = any(
                _equal(_parse_gold(answer, gold.unit), parsed, gold.tolerance) for answer in gold.answers
            )
        else:
            return "no-answer", None
    except Exception:  # whatever a verifier stumbles over in a model's answer is not equal to the gold
        return "different", None
    return ("match" if right else "different"), found


def _agrees(prediction: str, answer: str, gold: Gold) -> bool:
    answer = readable(answer, gold.unit)
    wanted = separate(answer) if gold.several else []
    if len(wanted) > 1:
        return any(_all_given(wanted, given, gold) for given in readings(prediction))
    if _IN_BASE.fullmatch(prediction) and _IN_BASE.fullmatch(answer):
        return prediction == answer  # math-verify reads 204_5 as 204
    return _equal(_parse_gold(answer, gold.unit), _parse_box(prediction), gold.tolerance)


def _all_given(wanted: list[str], given: list[str], gold: Gold) -> bool:
    """Whether each wanted answer is given as often as it is wanted, and nothing else is."""
    if len(given) != len(wanted):
        return False
    left = [_parse_box(readable(each, gold.unit)) for each in given]
    for each in wanted:
        parsed = _parse_gold(each, gold.unit)
        equal = (index for index, other in enumerate(left) if _equal(parsed, other, gold.tolerance))
        if (index := next(equal, None)) is None:
            return False
        del left[index]
    return True


def _parse_box(answer: str) -> list[Any]:
    return parse(f"\\boxed{{{answer}}}", boxed=True)


@functools.lru_cache(maxsize=GOLD_CACHE)
def _parse_gold(answer: str, unit: str | None) -> list[Any]:
    return _parse_box(readable(answer, unit))


def _equal(gold: list[Any], prediction: list[Any], tolerance: float | None) -> bool:
    equal = verify(gold, prediction)
    if tolerance is not None:
        wanted, given = _number(gold), _number(prediction)
        return equal or (None not in (wanted, given) and bool(abs(wanted - given) <= tolerance + ROUNDING))
    return equal and not _differs_beyond_six_decimals(gold, prediction)


def _differs_beyond_six_decimals(gold: list[Any], prediction: list[Any]) -> bool:
    """math-verify takes 1e-27 for 4.6e-24, because both are 0.000000."""
    wanted = _number(gold)
    if wanted is None or not 0 < abs(wanted) < SMALL:
        return False
    given = _number(prediction)
    return given is not None and bool(abs(wanted - given) > SMALL_ERROR * abs(wanted))


def _number(parsed: list[Any]) -> Any:
    """The number that an answer is, or assigns (``x = 5``), as a SymPy float; None where it is something else."""
    value = getattr(parsed[0], "rhs", parsed[0]) if parsed else None
    if value is None or not getattr(value, "is_number", False):
        return None
    return value.doit().evalf()  # a percentage is 1/100 times something, held back
