"""Every answer and every step is worked out again here, from the text alone."""

import operator
import re
from fractions import Fraction
from math import comb, gcd

import pytest

from padd_artifacts.errors import PaddError
from padd_stages.toy.problems import KINDS, generate, pool_of
from padd_stages.toy.unpack import DEFAULT_PROBLEMS

SUBDOMAINS = {
    "algebra",
    "geometry",
    "number theory",
    "combinatorics & probability",
    "precalculus",
    "calculus & analysis",
    "other",
}
ROWS = generate(2_800, seed=3)


def numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"(?<![\d])-?\d+", text)]


def linear(a, sign, b, c):
    return Fraction(int(c) - int(sign + b), int(a))


def slope(a, sign, b, x):
    return Fraction(2 * int(a) * int(x) + int(sign + b))


def sequence(first, second, n):
    return Fraction(int(first) + (int(n) - 1) * (int(second) - int(first)))


def chance(a, first, b, second, asked):
    assert first != second
    assert asked == first
    return Fraction(int(a), int(a) + int(b))


# One line a kind: what its text looks like and what its answer is.
SOLVERS = [
    (r"Solve (\d+)x ([+-]) (\d+) = (-?\d+)\.", linear),
    (r"A rectangle has sides (\d+) and (\d+)\. Find its perimeter\.", lambda a, b: 2 * (int(a) + int(b))),
    (r"A rectangle has sides (\d+) and (\d+)\. Find its area\.", lambda a, b: int(a) * int(b)),
    (r"A triangle has angles (\d+) and (\d+)\. Find the third\.", lambda a, b: 180 - int(a) - int(b)),
    (r"Find the gcd of (\d+) and (\d+)\.", lambda a, b: gcd(int(a), int(b))),
    (r"Find the last digit of (\d+) \* (\d+)\.", lambda a, b: int(a) * int(b) % 10),
    (r"Find the remainder of (\d+) by (\d+)\.", lambda a, b: int(a) % int(b)),
    (r"A bag has (\d+) (\w+) and (\d+) (\w+) balls\. Find the chance of (\w+)\.", chance),
    (r"How many pairs can (\d+) \w+ and (\d+) \w+ form\?", lambda a, b: comb(int(a) + int(b), 2)),
    (
        r"Choose from (\d+) \w+, (\d+) \w+ and (\d+) \w+\. How many \w+\?",
        lambda a, b, c: int(a) * int(b) * int(c),
    ),
    (r"An arithmetic sequence starts (\d+), (\d+)\. Find term (\d+)\.", sequence),
    (r"Let y = (\d+)x\^2 ([+-]) (\d+)x\. Find y' at (\d+)\.", slope),
    (r"Add (\d+), (\d+) and (\d+)\.", lambda a, b, c: int(a) + int(b) + int(c)),
]


def solve(problem: str) -> Fraction:
    for pattern, solver in SOLVERS:
        if found := re.fullmatch(pattern, problem):
            return Fraction(solver(*found.groups()))
    raise AssertionError(f"no solver for {problem!r}")


OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


def evaluate(expression: str) -> Fraction:
    """Left to right, which is the right order here: no step mixes sums with products."""
    tokens = re.findall(r"(?:^|(?<=[-+*/] ))-?\d+|[-+*/]|\d+", expression)
    value = Fraction(tokens[0])
    for sign, operand in zip(tokens[1::2], tokens[2::2], strict=True):
        value = OPERATIONS[sign](value, Fraction(operand))
    return value


def test_every_answer_is_right():
    for row in ROWS:
        assert solve(row["problem"]) == Fraction(row["answer"]), row


def test_every_kind_turns_up():
    for pattern, _ in SOLVERS:
        assert sum(bool(re.fullmatch(pattern, row["problem"])) for row in ROWS) > 20, pattern
    assert len(SOLVERS) == sum(len(kinds) for kinds in KINDS.values())


def test_answers_are_in_lowest_terms_and_written_one_way():
    for row in ROWS:
        assert str(Fraction(row["answer"])) == row["answer"], row
    assert any("-" in row["answer"] for row in ROWS)
    assert any("/" in row["answer"] for row in ROWS)


def test_every_step_of_a_solution_holds():
    for row in ROWS:
        steps, boxed = row["solution"].split(" so ")
        assert boxed == f"\\boxed{{{row['answer']}}}"
        for step in steps.split(", "):
            left, right = step.split(" = ")
            assert evaluate(left) == evaluate(right), (step, row)
        if "gcd" in row["problem"]:  # differences, down to one of two equal numbers
            assert numbers(steps)[:2] == numbers(row["problem"])
            answer = int(row["answer"])
            assert numbers(steps.replace(" - ", " "))[-3:] == [answer, answer, 0], row
            continue
        result = Fraction(steps.rsplit(" = ", 1)[1].replace(" ", ""))
        assert Fraction(row["answer"]) == (result % 10 if "last digit" in row["problem"] else result), row


def test_rows_have_the_seven_labels_in_equal_shares():
    counts = {name: sum(row["subject"] == name for row in ROWS) for name in SUBDOMAINS}
    assert counts == dict.fromkeys(SUBDOMAINS, 400)
    assert set(KINDS) == SUBDOMAINS
    assert all(set(row) == {"id", "problem", "solution", "answer", "subject"} for row in ROWS)


def test_problems_and_ids_are_distinct_at_the_size_of_a_demonstration():
    rows = generate(DEFAULT_PROBLEMS, seed=0)
    assert len({row["problem"] for row in rows}) == len({row["id"] for row in rows}) == DEFAULT_PROBLEMS


def test_same_seed_same_rows_and_a_smaller_set_is_the_beginning_of_a_larger_one():
    assert generate(200, seed=3) == ROWS[:200]
    assert generate(200, seed=4) != ROWS[:200]


def test_no_seed_of_a_demonstration_meets_a_pretraining_problem():
    seen = {row["problem"] for row in generate(3_500, seed=3, pool="pretraining")}
    assert not seen & {row["problem"] for row in ROWS}
    assert {pool_of(problem) for problem in seen} == {"pretraining"}
    assert {pool_of(row["problem"]) for row in ROWS} == {"demo"}


def test_more_problems_than_there_are_is_refused_with_the_number_to_ask_for():
    with pytest.raises(PaddError, match="has no more than") as refusal:
        generate(60_000, seed=0)
    most = int(re.findall(r"at most (\d+)", str(refusal.value))[0])
    assert DEFAULT_PROBLEMS <= most < 60_000
    assert len(generate(most, seed=0)) == most
