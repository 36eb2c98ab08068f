"""Subdomain labels and the keyword rules."""

import pytest

from padd_stages.lib.data.subdomains import LABELS, RULES, SUBDOMAINS, classify


@pytest.mark.parametrize(
    ("label", "subdomain"),
    [
        ("Algebra", "algebra"),
        ("Intermediate Algebra", "algebra"),
        ("Prealgebra", "algebra"),
        ("Counting & Probability", "combinatorics & probability"),
        ("counting_and_probability", "combinatorics & probability"),
        ("Number Theory", "number theory"),
        ("Geometry", "geometry"),
        ("Precalculus", "precalculus"),
        *((name, name) for name in SUBDOMAINS),
    ],
)
def test_a_known_label_wins_over_the_words(label: str, subdomain: str) -> None:
    assert classify("Find the area of the triangle.", label) == subdomain
    assert classify(r"Find $\int_0^1 x\,dx$.", label) == subdomain


@pytest.mark.parametrize("label", [None, "", "Introduction to Astronomy (8.282J Spring 2006)"])
def test_without_a_known_label_the_words_decide(label: str | None) -> None:
    assert classify("Find the area of the triangle with hypotenuse 5.", label) == "geometry"


@pytest.mark.parametrize(
    ("problem", "subdomain"),
    [
        ("Find the sum of the roots of the polynomial $x^2 - 5x + 6$.", "algebra"),
        ("Solve for $x$: $3x + 4 = 10$.", "algebra"),
        ("John is 24 years younger than his dad. How old is John?", "algebra"),
        ("A circle with radius 3 is inscribed in a square. Find the area of the square.", "geometry"),
        ("What is the remainder when $7^{100}$ is divided by 13?", "number theory"),
        ("How many positive divisors does 360 have?", "number theory"),
        (
            "Two fair dice are rolled. What is the probability that the sum is 7?",
            "combinatorics & probability",
        ),
        ("How many ways are there to arrange the letters of BANANA?", "combinatorics & probability"),
        (r"Compute $\sin 60^\circ \cos 30^\circ$.", "precalculus"),
        (r"Compute $\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}^2$.", "precalculus"),
        (r"Evaluate $\int_0^1 x^2 \, dx$.", "calculus & analysis"),
        ("Find the derivative of the function at 2.", "calculus & analysis"),
        ("Hello there.", "other"),
        ("", "other"),
    ],
)
def test_keyword_rules(problem: str, subdomain: str) -> None:
    assert classify(problem) == subdomain


def test_the_table_is_well_formed() -> None:
    assert {rule[0] for rule in RULES} == set(SUBDOMAINS) - {"other"}
    assert set(LABELS.values()) == set(SUBDOMAINS)
    assert all(label == label.lower() for label in LABELS)
