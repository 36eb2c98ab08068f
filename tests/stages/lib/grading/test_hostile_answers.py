"""200 answers that are out to crash, stall, fill or take over the grader."""

import os
import resource
import time
from pathlib import Path

import pytest

from padd_stages.lib.grading.gold import Gold
from padd_stages.lib.grading.grader import WORKER_BYTES, Grader

GOLDS: list[object] = ["5", r"\frac{1}{2}", Gold(("1,3,5",), several=True), Gold(("4.2",), 0.1, unit="km/h")]

RUNAWAYS = [
    "10!!",
    "99!!!",
    "9^{9^{9^9}}",
    r"\left(10^{10}\right)!",
    r"2^{2^{2^{2^{2^{2^{2}}}}}}",
    r"\sum_{n=1}^{10^9} \frac{1}{n^{n}}",
    r"\binom{10^9}{5\cdot10^8}",
]

FLOODS = [
    "{" * 100_000 + "}" * 100_000,
    "{" * 100_000,
    "(" * 100_000 + "1" + ")" * 100_000,
    r"\boxed{" * 50_000 + "5" + "}" * 50_000,
    "9" * 1_000_000,
    "1," * 500_000 + "1",
    "0." + "3" * 1_000_000,
    " " * 1_000_000 + "6",
    "\\" * 999_999,
    r"\frac" * 200_000,
    r"\sqrt{" * 600 + "2" + "}" * 600,
    r"\frac{1}{" * 400 + "2" + "}" * 400,
    "(" * 1_900 + "1" + ")" * 1_900,
    "9" * 3_900,
    "1," * 1_900 + "1",
    "-" * 3_900 + "1",
    "+1" * 1_900,
    "x^" * 1_900 + "x",
    "a and " * 600 + "b",
    r"\pm 1," * 600,
]

BROKEN = [
    "\x00",
    "5\x006",
    "\ud800",
    "\ufeff\u202e6",
    r"\frac{1}{",
    r"\frac{}{}",
    r"\frac13}{",
    "}{",
    "{{}",
    r"\left( \begin{pmatrix} 1 & \\",
    r"\begin{cases} 1 \\ 2",
    r"\end{matrix}",
    r"\left\{\right.",
    "$",
    "$$",
    r"\(",
    r"\sqrt[",
    "_",
    "^",
    "^^^",
    "__",
    "5^",
    "%",
    r"\%",
    "&&&",
    "1/0",
    r"\frac{1}{0}",
    r"\frac{0}{0}",
    r"\infty - \infty",
    r"\log 0",
    "0^0",
    r"\tan \frac{\pi}{2}",
    "nan",
    "inf",
    "None",
    "True",
    r"\text{" + "a" * 3_000 + "}",
    r"\unknowncommand{3}{4}[5]",
    r"\def\x{\x\x}\x",
    r"\input{/etc/passwd}",
    r"\write18{id}",
]

OTHER_SCRIPTS = [
    "٤٢",
    "四十二",
    "४२",
    "ⅩⅬⅡ",
    "④②",
    "сорок два",
    "שש",
    "Ω≈ç√∫",
    "½½",
    "６",
    "👩‍👩‍👧‍👦" * 300,
    "e\u0301" * 1_000,
    "\u200b6\u200b",
    "ﷺ" * 500,
]


def _code(canary: Path) -> list[str]:
    touch = f'open("{canary}", "w").close()'
    shell = f"touch {canary}"
    system = f'__import__("os").system("{shell}")'
    bodies = [
        touch,
        system,
        f'__import__("pathlib").Path("{canary}").touch()',
        f'exec("{shell}")',
        f"eval('{system}')",
        f"(lambda: {system})()",
        f"[{system} for x in (1,)]",
        f"().__class__.__base__.__subclasses__()[0] + {system}",
        f"import os; os.system('{shell}')",
        f"sympify('{system}')",
        f"parse_expr('{system}')",
        f"np.{system}",
        f"math.{touch}",
        f"`{shell}`",
        f"$({shell})",
        f"; {shell} ;",
        f"'; {shell}; '",
        f"{{{{ {system} }}}}",
        f"%c __import__({shell})",
        f'"{{0.__class__}}" + {system}',
    ]
    latex = [rf"\text{{{body}}}" for body in bodies] + [rf"\operatorname{{{body}}}(1)" for body in bodies]
    return [*bodies, *latex, *(rf"\sqrt{{{body}}}" for body in bodies), *(f"f({body})=1" for body in bodies)]


def _responses(canary: Path) -> list[tuple[str, object]]:
    boxed = [*RUNAWAYS, *FLOODS, *BROKEN, *OTHER_SCRIPTS, *_code(canary)]
    responses = [rf"\boxed{{{answer}}}" for answer in boxed]
    responses += [rf"The answer is \boxed{{{answer}" for answer in FLOODS[:5]]
    responses += [
        f"The final answer is ${answer}$." for answer in (*RUNAWAYS[:2], *BROKEN[:8], *_code(canary)[:20])
    ]
    responses += ["<think>" * 100_000, "</think>" * 100_000, r"\boxed" * 150_000]
    return [(response, GOLDS[index % len(GOLDS)]) for index, response in enumerate(responses)]


@pytest.mark.slow
def test_200_hostile_answers(tmp_path: Path) -> None:
    canary = tmp_path / "executed"
    pairs = _responses(canary)
    assert len(pairs) >= 200
    before = sorted(os.listdir())
    started = time.monotonic()
    with Grader(workers=2) as grader:
        verdicts = grader.grade(pairs, extract="any")
        took = time.monotonic() - started
        assert grader.grade([(r"\boxed{y+1}", "1+y")])[0].correct
    assert [pair for pair, verdict in zip(pairs, verdicts) if verdict.correct] == []
    assert not canary.exists()
    for code in _code(canary)[:3]:  # and yet it is code that runs where somebody evaluates it
        eval(code)
        assert canary.exists()
        canary.unlink()
    assert sorted(os.listdir()) == before
    assert took < 120
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 < WORKER_BYTES
    reasons = {
        reason: sum(verdict.reason == reason for verdict in verdicts) for reason in ("timeout", "no-answer")
    }
    print(f"{len(pairs)} answers in {took:.0f} s: {reasons}")
