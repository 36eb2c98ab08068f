"""Answers in a notation that the verifier reads right."""

import time
from decimal import Decimal

import pytest

from padd_stages.lib.grading.notation import plain_number, readable, readings, separate, without_unit


@pytest.mark.parametrize(
    ("answer", "form"),
    [
        ("4.5e33", r"4.5 \times 10^{33}"),
        ("-1E-7", r"-1 \times 10^{-7}"),
        (r"$4.5e33 \mathrm{~m}$", r"4.5 \times 10^{33} \mathrm{~m}"),
        ("2e^{3}", "2e^{3}"),
        ("x2e3", "x2e3"),
        ("-1./3", "-1/3"),
        ("np.arcsin(10/13)", r"\arcsin(10/13)"),
        ("np.sqrt(3)/math.pi", r"sqrt(3)/\pi"),
        ("np.log(2)", r"\ln(2)"),
        ("x_1", "x_{1}"),
        ("2E_1", r"2\mathcal{E}_{1}"),
        (r"E = mc^2", r"E = mc^2"),
        ("=5", "5"),
        (r"\log_2 3", r"\log_{2} 3"),
        (r"\frac\pi2", r"\frac{\pi}2"),
        (r"\frac\pi{2}", r"\frac{\pi}{2}"),
        ("5.", "5"),
        ("5.25", "5.25"),
        ("7{,}425{,}000", "7425000"),
        (r"7,\!425,\!000", "7425000"),
        (r"7\,425", "7425"),
        (r"(1\,2)", r"(1\,2)"),
        (r"\(\frac12\)", r"\frac12"),
        ("$$3$$", "3"),
        ("$1$ and $2$", "$1$ and $2$"),
        (r"\$5", r"\$5"),
        (r"\boxed{3}", "3"),
        (r"\boxed{3} or \boxed{4}", r"\boxed{3} or \boxed{4}"),
    ],
)
def test_readable(answer: str, form: str) -> None:
    assert readable(answer) == form


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("025", 25),
        ("7,425,000", 7_425_000),
        ("-.5", Decimal("-0.5")),
        ("+3", 3),
        ("1,22", None),
        ("1/2", None),
        ("", None),
        ("٣", None),
        ("1e3", None),
        ("12,3456", None),
    ],
)
def test_plain_number(answer: str, value: object) -> None:
    assert plain_number(answer) == value


@pytest.mark.parametrize(
    ("answer", "unit", "value"),
    [
        ("8 min", "min", "8"),
        ("8 minutes", "minute", "8"),
        ("8 minute", "minutes", "8"),
        (r"4.2\%", "%", "4.2"),
        (r"\frac{41}{12} \text{ km}", "km", r"\frac{41}{12}"),
        (r"\frac{600}{7}\,\mathrm{km/h}", "km/h", r"\frac{600}{7}"),
        (r"\frac{600}{7} \mathrm{km} / \mathrm{h}", "km/h", r"\frac{600}{7}"),
        (r"166\ \mathrm{cm}^{2}", "$cm^2$", "166"),
        ("166 cm^2", "$cm^2$", "166"),
        (r"90^\circ", r"^{\circ}", "90"),
        (r"90^{\circ}", r"^{\circ}", "90"),
        (r"\frac{1}{km}", "km", r"\frac{1}{km}"),
        ("8 hours", "min", "8 hours"),
        ("km", "km", "km"),
        ("8", "min", "8"),
    ],
)
def test_units_behind_an_answer(answer: str, unit: str, value: str) -> None:
    assert readable(without_unit(answer, unit)) == value
    assert readable(answer, unit) == readable(value)


@pytest.mark.parametrize(
    ("answers", "parts"),
    [
        ("5", ["5"]),
        ("$69$,$84$", ["69", "84"]),
        ("$221,$8$", ["221", "8"]),
        ("1; 2 and 3", ["1", "2", "3"]),
        (r"1 \text{ or } 2, \text{and } 3", ["1", "2", "3"]),
        (r"\text{sand}, b", [r"\text{sand}", "b"]),
        ("(1,8,19), (2,7,13)", ["(1,8,19)", "(2,7,13)"]),
        (r"\left(\frac{1}{2},3\right), [0,1)", [r"\left(\frac{1}{2},3\right)", "[0,1)"]),
        (r"\{1,2\}, \{3\}", [r"\{1,2\}", r"\{3\}"]),
        (r"1\,000,2", [r"1\,000", "2"]),
        (r"\pm 1, 3", ["+ 1", "- 1", "3"]),
        (r"a \pm b \mp c", ["a + b - c", "a - b + c"]),
        ("1,,2,", ["1", "2"]),
        (") 1, 2 (", [") 1", "2 ("]),
        ("", []),
    ],
)
def test_separate(answers: str, parts: list[str]) -> None:
    assert separate(answers) == parts


@pytest.mark.parametrize(
    ("answers", "reading"),
    [
        (r"\{1,3\}", ["1", "3"]),
        ("(1,3)", ["1", "3"]),
        (r"x \in \left\{1,3\right\}", ["1", "3"]),
        ("x = 1, 3", ["x = 1", "3"]),
        ("2,400, 1,350, 864", ["2400", "1350", "864"]),
        ("54,108", ["54", "108"]),
    ],
)
def test_readings(answers: str, reading: list[str]) -> None:
    assert reading in list(readings(answers))


@pytest.mark.parametrize(
    "text", ["," * 4_000, "(" * 4_000, "1,234" * 800, "x = (" * 800, r"\left(" * 600, " " * 4_000]
)
def test_notation_is_quick_on_hostile_input(text: str) -> None:
    started = time.perf_counter()
    list(readings(readable(text, "km")))
    assert time.perf_counter() - started < 1
