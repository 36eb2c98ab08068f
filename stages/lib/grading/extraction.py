"""Taking the final answer out of a response, and golds out of what a data set holds."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Number
from typing import Literal

from padd_artifacts.errors import PaddError

Extract = Literal["boxed", "any"]

# The longest gold of AIME24, AMC23, MATH500, Minerva-Math, OlympiadBench, GSM8K and MATH has 210 characters.
MAX_ANSWER_CHARS = 4_000

# Linear on hostile input (a megabyte of backslashes, of digits, of opened boxes): no ambiguous repetition.
_BRACES = re.compile(r"\\{1,2}(?P<box>boxed|fbox)\s*\{|\\.|(?P<open>\{)|(?P<close>\})", re.DOTALL)
_WHOLE_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{(?P<inside>.*)\}", re.DOTALL)
_MATH_MODE = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"))


@dataclass(frozen=True)
class Box:
    """One closed ``\\boxed{...}`` or ``\\fbox{...}``: ``text[start:end]``, its content ``text[inside:end - 1]``."""

    start: int
    inside: int
    end: int


def strip_thinking(response: str) -> str:
    """The response without its ``<think>`` sections.

    A section that was never closed reaches to the end; a closing tag alone (templates that open the
    section in the prompt) starts at the beginning.
    """
    kept: list[str] = []
    *closed, rest = response.split("</think>")
    for piece in closed:
        before, opened, _thoughts = piece.partition("<think>")
        if opened:
            kept.append(before)
        else:
            kept.clear()
    return "".join([*kept, rest.partition("<think>")[0]])


def find_boxes(text: str) -> tuple[list[Box], bool]:
    """All outermost closed boxes in order, and whether another one was opened after them and never closed."""
    boxes: list[Box] = []
    stack: list[tuple[int, int] | None] = []  # (start, content start) of a box, None for a plain brace
    for token in _BRACES.finditer(text):
        if token["box"]:
            stack.append((token.start(), token.end()))
        elif token["open"]:
            stack.append(None)
        elif token["close"] and stack and (opened := stack.pop()) is not None:
            while boxes and boxes[-1].start > opened[0]:
                boxes.pop()
            boxes.append(Box(*opened, token.end()))
    last_end = boxes[-1].end if boxes else 0
    return boxes, any(opened is not None and opened[0] >= last_end for opened in stack)


def last_boxed(response: str) -> str | None:
    """Content of the last balanced box of a response, stripped; None where there is no answer.

    The last box decides: if it was never closed (the response was cut off while stating its answer), or
    is empty, there is no answer, whatever stood in an earlier box.
    """
    text = strip_thinking(response)
    boxes, unclosed = find_boxes(text)
    if unclosed or not boxes:
        return None
    return unwrap(text[boxes[-1].inside : boxes[-1].end - 1]) or None


def unwrap(answer: str) -> str:
    """An answer without the white space, dollar signs and boxes that are wrapped around all of it."""
    text = answer.strip()
    while 1 < len(text) <= MAX_ANSWER_CHARS:
        inner = _unwrap_once(text)
        if inner == text:
            break
        text = inner.strip()
    return text


def _unwrap_once(text: str) -> str:
    for left, right in _MATH_MODE:
        inner = text[len(left) : len(text) - len(right)]
        if (
            text.startswith(left)
            and text.endswith(right)
            and inner
            and left not in inner
            and right not in inner
        ):
            return inner
    if _WHOLE_BOX.fullmatch(text):
        boxes, unclosed = find_boxes(text)
        if not unclosed and len(boxes) == 1 and (boxes[0].start, boxes[0].end) == (0, len(text)):
            return text[boxes[0].inside : -1]
    return text


def gold_answers(gold: object) -> tuple[str, ...]:
    """The accepted answers of a problem, unwrapped: text, a number, or a list of them (any of them counts).

    Raises:
        PaddError: no answer in it, or a value that is no answer.
    """
    if isinstance(gold, str):
        answers: tuple[str, ...] = (unwrap(gold),)
    elif isinstance(gold, Number):
        answers = (str(gold),)
    elif isinstance(gold, Iterable) and not isinstance(gold, dict | bytes):
        answers = tuple(answer for each in gold for answer in gold_answers(each))
    else:
        raise PaddError(
            f"a gold answer is {type(gold).__name__} ({gold!r:.60}), so nothing can be graded against it; "
            "give text, a number or a list of them."
        )
    if not answers or not all(answers):
        raise PaddError(
            f"the gold answer {gold!r:.60} is empty, so nothing can be graded against it; leave the problem out."
        )
    return answers
