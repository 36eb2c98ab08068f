"""What the grader says of an answer."""

from decimal import Decimal

import pytest

from padd_artifacts.errors import PaddError
from padd_stages.lib.grading.gold import Gold
from padd_stages.lib.grading.grader import Grader, decide
from padd_stages.lib.grading.pool import Task
from padd_stages.lib.grading.verification import judge

CASES = [
    # response, gold, reason
    (r"\boxed{42}", "42", "match"),
    (r"\boxed{42}", 42, "match"),
    (r"\boxed{42}", 42.0, "match"),
    (r"\boxed{42}", ["41", 42], "match"),
    (r"\boxed{43}", ["41", 42], "different"),
    (r"\boxed{25}", "025", "match"),
    (r"\boxed{025}", "25", "match"),
    (r"\boxed{7,425,000}", "7425000", "match"),
    (r"\boxed{7{,}425{,}000}", "7425000", "match"),
    (r"\boxed{7425001}", "7,425,000", "different"),
    (r"\boxed{0.50}", "0.5", "match"),
    (r"\boxed{\frac{1}{2}}", "0.5", "match"),
    (r"\boxed{0.333333}", r"\frac{1}{3}", "match"),
    (r"\boxed{0.34}", r"\frac{1}{3}", "different"),
    (r"\boxed{1/3}", r"\frac13", "match"),
    (r"\boxed{-1/3}", "-1./3", "match"),
    (r"\boxed{4.5 \times 10^{33}}", "4.5e33", "match"),
    (r"\boxed{4.5e33}", r"4.5 \times 10^{33}", "match"),
    (r"\boxed{403.2}", "4.5e33", "different"),
    (r"\boxed{2.88 \times 10^{-19}}", "2.88e-19", "match"),
    (r"\boxed{3 \times 10^{-19}}", "2.88e-19", "different"),
    (r"\boxed{E = 1e-27}", "4.6e-24", "different"),
    (r"\boxed{0.012346}", r"\frac{1}{81}", "match"),
    (r"\boxed{62.5\%}", "62.5%", "match"),
    (r"\boxed{204_5}", "204_{5}", "match"),
    (r"\boxed{204_6}", "204_5", "different"),
    (r"\boxed{204}", "204_5", "match"),
    (r"\boxed{\frac{2}{3}}", r"\frac{1}{3} E_{1}+\frac{2}{3} E_{2}", "different"),
    (r"\boxed{\frac{1}{3} E_1+\frac{2}{3} E_3}", r"\frac{1}{3} E_{1}+\frac{2}{3} E_{2}", "different"),
    (r"\boxed{\frac{2E_2+E_1}{3}}", r"\frac{1}{3} E_{1}+\frac{2}{3} E_{2}", "match"),
    (r"\boxed{2}", r"\hbar \omega(v+1 / 2)-\frac{E_{0}^{2} e^{2}}{2 m \omega^{2}}", "different"),
    (r"\boxed{0.5\%}", "0.005", "match"),
    (r"\boxed{0.5\%}", "0.005001", "different"),
    (r"\boxed{10^{400}}", "1e400", "match"),
    (r"\boxed{\arcsin\frac{10}{13}}", "np.arcsin(10/13)", "match"),
    (r"\boxed{E_1, E_2}", "E_{1},E_{2}", "match"),
    (r"\boxed{\text{east}}", r"\text{east}", "match"),
    (r"\boxed{2\sqrt{3}}", r"\sqrt{12}", "match"),
    (r"\boxed{(x+1)^2}", "x^2+2x+1", "match"),
    (r"\boxed{x=5}", "5", "match"),
    (r"\boxed{2,1}", "1,2", "match"),
    (r"\boxed{\left( 3, \frac{\pi}{2} \right)}", r"(3, \pi/2)", "match"),
    (r"\boxed{[0,1)}", "$[0,1)$", "match"),
    (r"\boxed{[0,9)}", "$(0,9)$", "different"),
    (r"\boxed{1} and \boxed{2}", "1", "different"),
    (r"\boxed{1} and \boxed{2}", "2", "match"),
    (r"the answer is 5", "5", "no-answer"),
    (r"\boxed{\frac{1}{2}", r"\frac{1}{2}", "no-answer"),
    (r"\boxed{}", "1", "no-answer"),
    (r"<think>\boxed{1}</think>\boxed{3}", "3", "match"),
    ("", "1", "no-answer"),
]


@pytest.mark.parametrize(("response", "gold", "reason"), CASES)
def test_verdicts(grader: Grader, response: str, gold: object, reason: str) -> None:
    [verdict] = grader.grade([(response, gold)])
    assert verdict.reason == reason
    assert verdict.correct == (reason == "match")
    assert (verdict.extracted is None) == (reason == "no-answer")


def test_a_batch_keeps_its_order(grader: Grader) -> None:
    verdicts = grader.grade([(response, gold) for response, gold, _ in CASES])
    assert [verdict.reason for verdict in verdicts] == [reason for _, _, reason in CASES]
    assert grader.grade([]) == []


def test_extracted_is_the_answer_as_it_was_written(grader: Grader) -> None:
    assert grader.grade([(r"so \boxed{4.5e33}", "1")])[0].extracted == "4.5e33"


@pytest.mark.parametrize(
    ("response", "gold", "reason"),
    [
        ("The final answer is $5$.", "5", "match"),
        ("The final answer is $6$.", "5", "different"),
        (r"It is 7, so \boxed{5}", "5", "match"),
        ("<think>It is 5</think> I do not know", "5", "no-answer"),
        ("   ", "5", "no-answer"),
    ],
)
def test_extract_any_reads_free_text(grader: Grader, response: str, gold: str, reason: str) -> None:
    [verdict] = grader.grade([(response, gold)], extract="any")
    assert verdict.reason == reason
    assert (verdict.extracted is None) == (reason == "no-answer")


ALL = {"several": True}
GOLD_CASES = [
    # response's box, gold, what the benchmark says of it, right?
    ("5,1,3", "1,3,5", ALL, True),
    (r"\{5,1,3\}", "1,3,5", ALL, True),
    (r"x=1 \text{ or } x=3 \text{ or } x=5", "1,3,5", ALL, True),
    ("1,3", "1,3,5", ALL, False),
    ("1,3,5,7", "1,3,5", ALL, False),
    ("1,3,4", "1,3,5", ALL, False),
    (r"\pm 1, \pm 7", "1,-1,7,-7", ALL, True),
    ("-2", "-2,-2", ALL, False),
    ("-2,-2", "-2,-2", ALL, True),
    ("16,3,1", "16,3,1,1", ALL, False),
    ("16,16,3,1", "16,3,1,1", ALL, False),
    ("1,16,1,3", "16,3,1,1", ALL, True),
    ("f(x)=x+1, f(x)=-1", "$f(x)=-1$,$f(x)=x+1$", ALL, True),
    ("x+1", "$f(x)=-1$,$f(x)=x+1$", ALL, False),
    ("(2,7,13),(1,8,19)", "$(1,8,19), (2,7,13)$", ALL, True),
    ("(7,2,13),(1,8,19)", "$(1,8,19), (2,7,13)$", ALL, False),
    ("2,400, 1,350, 864", "2400, 1350, 864", ALL, True),
    ("54108", "54,108", ALL, False),
    ("4.3", "4.2", {"tolerance": 0.1}, True),
    ("4.1", "4.2", {"tolerance": 0.1}, True),
    (r"\frac{43}{10}", "4.2", {"tolerance": 0.1}, True),
    ("4.31", "4.2", {"tolerance": 0.1}, False),
    ("5", "4", {"tolerance": 1.0}, True),
    ("6", "4", {"tolerance": 1.0}, False),
    (r"\text{none}", "4", {"tolerance": 1.0}, False),
    (r"4.2\%", "4.2", {"unit": "%"}, True),
    (r"4.2\%", "4.2", {}, False),
    (r"\frac{600}{7} km/h", r"\frac{600}{7}", {"unit": "km/h"}, True),
    ("166 cm^2", "$166$", {"unit": "$cm^2$"}, True),
    ("167 cm^2", "$166$", {"unit": "$cm^2$"}, False),
    (r"90^\circ, 90^\circ", r"$\angle B=90$,$\angle A=90$", {**ALL, "unit": r"^{\circ}"}, True),
]


def test_several_answers_tolerances_and_units(grader: Grader) -> None:
    pairs = [(rf"\boxed{{{answer}}}", Gold((gold,), **says)) for answer, gold, says, _ in GOLD_CASES]
    wrong = [case for case, verdict in zip(GOLD_CASES, grader.grade(pairs)) if verdict.correct != case[-1]]
    assert wrong == []


def test_truncated_responses_are_wrong_whatever_stands_in_them(grader: Grader) -> None:
    pairs: list[tuple[str, object]] = [
        (r"\boxed{5}", 5),
        (r"\boxed{5}", 5),
        (r"\boxed{5", 5),
        (r"\boxed{10!!}", 5),
    ]
    verdicts = grader.grade(pairs, truncated=[False, True, True, True])
    assert [verdict.reason for verdict in verdicts] == ["match", "truncated", "truncated", "truncated"]
    assert [verdict.correct for verdict in verdicts] == [True, False, False, False]
    assert [verdict.extracted for verdict in verdicts] == ["5", "5", None, "10!!"]


@pytest.mark.parametrize("gold", [None, "", []])
def test_a_missing_gold_is_refused(grader: Grader, gold: object) -> None:
    with pytest.raises(PaddError, match="gold answer"):
        grader.grade([(r"\boxed{1}", gold)])


@pytest.mark.parametrize(
    ("prediction", "golds", "reason"),
    [
        ("12", ("12",), "match"),
        ("012", ("7", "12.0"), "match"),
        ("12", ("13",), "different"),
        ("12.5", ("13",), None),
        ("12", ("13", "x"), None),
        ("0.3333333", ("0.333333",), None),
        ("10!!", ("10!!",), "match"),
        ("9" * 5_000, ("9",), "different"),
    ],
)
def test_decided_without_a_worker(prediction: str, golds: tuple[str, ...], reason: str | None) -> None:
    outcome = decide(Task(prediction, Gold(golds), boxed=True))
    assert (outcome and outcome.reason) == reason


def test_the_shortcut_agrees_with_the_verifier_on_numbers() -> None:
    numbers = [
        "0",
        "7",
        "007",
        "-7",
        "7.0",
        "7.50",
        "7.5",
        "1,234",
        "1234",
        "12345678901234567890",
        "-0",
        "0.1",
    ]
    for prediction in numbers:
        for gold in numbers:
            outcome = decide(Task(prediction, Gold((gold,)), boxed=True))
            if outcome is not None:
                assert outcome.reason == judge(prediction, Gold((gold,)), True)[0], (prediction, gold)


@pytest.mark.parametrize("tolerance", [-1.0, float("nan"), float("inf")])
def test_a_senseless_tolerance_is_refused(tolerance: float) -> None:
    with pytest.raises(PaddError, match="tolerance"):
        Gold(("1",), tolerance)


def test_numbers_of_any_kind_are_golds(grader: Grader) -> None:
    numpy = pytest.importorskip("numpy")
    golds = [Decimal("2.50"), numpy.float64(2.5), numpy.array(["2.5", "9"])]
    assert all(verdict.correct for verdict in grader.grade([(r"\boxed{5/2}", gold) for gold in golds]))
