"""Bringing answers into a notation that the verifier reads right."""

import re
from collections.abc import Iterator
from decimal import Decimal

from padd_stages.lib.grading.extraction import unwrap

UNIT_CHARS = 60  # chosen: the longest unit of OlympiadBench has 7 characters, its markup a few dozen

_E_NOTATION = re.compile(r"(?<![\w.\\])([+-]?(?:\d+(?:\.\d*)?|\.\d+))[eE]([+-]?\d+)(?![\w.])")
_BARE_POINT = re.compile(r"(?<=\d)\.(?=\s*(?:[-+*/)]|$))")
_GROUP_MARK = re.compile(r"(?<=\d)(?:\{,\}|,\\!|\\,)(?=\d{3}(?!\d))")
_PYTHON_NAME = re.compile(r"\b(?:np|numpy|math)\.([a-z]+)")
# math-verify knows sqrt as it is, and takes \log for base 10.
_NOT_LATEX = {"sqrt": "sqrt", "log": r"\ln"}
_BARE_PI = re.compile(r"(\\[dt]?frac)\s*\\pi(?![a-zA-Z])")
# math-verify takes E for Euler's number, and then trips over the index.
_INDEXED_E = re.compile(r"(?<![a-zA-Z\\])E(?=_)")
_SHORT_INDEX = re.compile(r"_(\d)")
_GROUPED = re.compile(r"(?<![\d.])\d{1,3}(?:,\d{3})+(?!\d)", re.ASCII)
_NUMBER = re.compile(r"[+-]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)", re.ASCII)
_MARKUP = re.compile(r"\\(?:text|textrm|mathrm|mbox|rm|operatorname)\b|\\[,;:! ]|[\s{}~$\\]")
_PARTS = re.compile(
    r"(?P<between>[,;]|\\text\s*\{[\s,]*(?:and|or)\s*\}|\b(?:and|or)\b)"
    r"|(?P<open>\\?[({\[])|(?P<close>\\?[)}\]])|\\(?:[a-zA-Z]+|.)",
    re.DOTALL,
)
_ENCLOSED = re.compile(
    r"(?:[\w\s]*(?:=|\\in\b))?\s*(?:\\left\s*)?\\?[({\[](?P<inside>.*?)(?:\\right\s*)?\\?[)}\]]", re.DOTALL
)


def readable(answer: str, unit: str | None = None) -> str:
    """An unwrapped answer as the verifier reads it right, without the unit that may stand behind it.

    ``4.5e33`` becomes ``4.5 \\times 10^{33}``, ``-1./3`` becomes ``-1/3``, ``np.arcsin(1/3)`` becomes
    ``\\arcsin(1/3)``, ``x_1`` becomes ``x_{1}``, and thousands marks (``1{,}000``, ``1\\,000``) go.
    """
    text = unwrap(without_unit(unwrap(answer), unit)) if unit else unwrap(answer)
    text = _PYTHON_NAME.sub(lambda name: _NOT_LATEX.get(name[1], "\\" + name[1]), text)
    text = _INDEXED_E.sub(r"\\mathcal{E}", text.removeprefix("="))
    text = _BARE_PI.sub(r"\1{\\pi}", _SHORT_INDEX.sub(r"_{\1}", text))
    text = _E_NOTATION.sub(r"\1 \\times 10^{\2}", text)
    return _GROUP_MARK.sub("", _BARE_POINT.sub("", text))


def plain_number(answer: str) -> Decimal | None:
    """The exact value of a readable answer that is nothing but a decimal number (commas mark thousands), else None.

    Digits other than ASCII ones are left to the verifier.
    """
    return Decimal(answer.replace(",", "")) if _NUMBER.fullmatch(answer) else None


def without_unit(answer: str, unit: str) -> str:
    """The answer without the unit at its end, in whatever LaTeX it is written (``km/h``, ``\\text{ km/h}``); the plural
    counts as the unit."""
    bare = _MARKUP.sub("", unit).removesuffix("s")
    for start in range(max(1, len(answer) - UNIT_CHARS), len(answer)):
        value, tail = answer[:start], answer[start:]
        is_argument = value.count("{") != value.count("}") or tail.startswith("{")
        if not is_argument and _MARKUP.sub("", tail).removesuffix("s") == bare:
            return value
    return answer


def separate(answers: str) -> list[str]:
    """Several answers as single ones, cut at commas, semicolons, *and*, *or* outside brackets; ``\\pm`` makes two."""
    text = re.sub(r"(?<!\\)\$", "", answers)
    parts: list[str] = []
    depth = start = 0
    for token in _PARTS.finditer(text):
        if token["open"]:
            depth += 1
        elif token["close"]:
            depth = max(0, depth - 1)
        elif token["between"] and depth == 0:
            parts.append(text[start : token.start()])
            start = token.end()
    parts = [unwrap(part) for part in (*parts, text[start:])]
    return [signed for part in parts if part for signed in _signs(part)]


def readings(answers: str) -> Iterator[list[str]]:
    """The ways to read a response that states several answers: as it stands, the contents of the brackets around
    all of it, and with commas as thousands marks."""
    for text in dict.fromkeys((answers, _GROUPED.sub(lambda number: number[0].replace(",", ""), answers))):
        yield separate(text)
        if enclosed := _ENCLOSED.fullmatch(text.strip()):
            yield separate(enclosed["inside"])


def _signs(answer: str) -> tuple[str, ...]:
    if "\\pm" not in answer:
        return (answer,)
    return answer.replace("\\pm", "+").replace("\\mp", "-"), answer.replace("\\pm", "-").replace("\\mp", "+")
