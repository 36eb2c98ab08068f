"""Short maths problems with worked solutions, in the seven subdomains of docs/METHOD.md, section 8.

The numbers are small enough for a network of a million parameters to learn, and the texts many enough (more than
60,000) that remembering them does not help: what is measured is arithmetic on numbers not seen together before.
"""

import hashlib
import random
from collections.abc import Callable, Iterator
from math import gcd
from typing import Literal, NamedTuple

from padd_artifacts.errors import PaddError

Pool = Literal["demo", "pretraining"]


class Exercise(NamedTuple):
    """A problem, the steps that solve it (without the boxed answer) and the answer, all as text."""

    problem: str
    steps: str
    answer: str


# One problem in so many, by its text, is for demonstrations; pre-training sees the others (chosen: the smallest
# subdomain still has 900).
DEMO_SHARE = 8
# Repeats in a row after which a subdomain counts as used up (chosen: a hundredth of a pool is still found).
_MAX_MISSES = 2_000
_COLOURS = ("red", "blue", "green", "white")
_GROUPS = ("boys and {} girls", "cats and {} dogs", "men and {} women", "cups and {} plates")
_MENUS = (("soups", "mains", "cakes", "meals"), ("shirts", "hats", "coats", "outfits"))


def linear_equation(rng: random.Random) -> Exercise:
    """Make a x + b = c with a positive integer root."""
    a, b = rng.randint(2, 9), rng.choice((-1, 1)) * rng.randint(1, 40)
    x = rng.randint(1, 12)
    c = a * x + b
    sign, undo = ("+", "-") if b > 0 else ("-", "+")
    steps = f"{c} {undo} {abs(b)} = {a * x}, {a * x} / {a} = {x}"
    return Exercise(f"Solve {a}x {sign} {abs(b)} = {c}.", steps, str(x))


def rectangle_perimeter(rng: random.Random) -> Exercise:
    """Make a perimeter: twice the sum of the sides."""
    a, b = rng.randint(10, 99), rng.randint(2, 60)
    steps = f"{a} + {b} = {a + b}, 2 * {a + b} = {2 * (a + b)}"
    return Exercise(f"A rectangle has sides {a} and {b}. Find its perimeter.", steps, str(2 * (a + b)))


def rectangle_area(rng: random.Random) -> Exercise:
    """Make an area with one side of one digit: tens and ones are multiplied apart."""
    a, b = rng.randint(11, 99), rng.randint(2, 9)
    tens, ones = a // 10 * 10, a % 10
    steps = f"{tens} * {b} = {tens * b}, {ones} * {b} = {ones * b}, {tens * b} + {ones * b} = {a * b}"
    return Exercise(f"A rectangle has sides {a} and {b}. Find its area.", steps, str(a * b))


def third_angle(rng: random.Random) -> Exercise:
    """Make a triangle's third angle: the three add up to 180 degrees."""
    a = rng.randint(10, 120)
    b = rng.randint(10, 170 - a)
    steps = f"{a} + {b} = {a + b}, 180 - {a + b} = {180 - a - b}"
    return Exercise(f"A triangle has angles {a} and {b}. Find the third.", steps, str(180 - a - b))


def greatest_common_divisor(rng: random.Random) -> Exercise:
    """Make a gcd by Euclid's first way, by differences down to 0, at most five of them."""
    while True:
        divisor = rng.randint(1, 12)
        a, b = divisor * rng.randint(2, 12), divisor * rng.randint(1, 9)
        if not b < a < 100:
            continue
        steps, larger, smaller = [], a, b
        while smaller:
            difference = larger - smaller
            steps.append(f"{larger} - {smaller} = {difference}")
            larger, smaller = max(difference, smaller), min(difference, smaller)
        if len(steps) <= 5:
            return Exercise(f"Find the gcd of {a} and {b}.", ", ".join(steps), str(larger))


def remainder(rng: random.Random) -> Exercise:
    """Make a division by a number of one digit, with a quotient of one digit."""
    b, whole = rng.randint(3, 9), rng.randint(1, 9)
    a = b * whole + rng.randrange(b)
    steps = f"{b} * {whole} = {b * whole}, {a} - {b * whole} = {a % b}"
    return Exercise(f"Find the remainder of {a} by {b}.", steps, str(a % b))


def last_digit(rng: random.Random) -> Exercise:
    """Make a product modulo 10, which needs the last digits alone."""
    a, b = rng.randint(11, 99), rng.randint(11, 99)
    product = (a % 10) * (b % 10)
    return Exercise(
        f"Find the last digit of {a} * {b}.", f"{a % 10} * {b % 10} = {product}", str(product % 10)
    )


def chance_of_a_colour(rng: random.Random) -> Exercise:
    """Make a probability, a fraction in lowest terms."""
    first, second = rng.sample(_COLOURS, 2)
    a, b = rng.randint(1, 24), rng.randint(1, 24)
    total, shared = a + b, gcd(a, b)
    answer = f"{a // shared}/{total // shared}"
    steps = f"{a} + {b} = {total}, {a}/{total} = {answer}"
    return Exercise(
        f"A bag has {a} {first} and {b} {second} balls. Find the chance of {first}.", steps, answer
    )


def pairs_of_people(rng: random.Random) -> Exercise:
    """Make n choose 2, where n is itself a sum."""
    a, b = rng.randint(2, 14), rng.randint(2, 14)
    total = a + b
    answer = total * (total - 1) // 2
    steps = f"{a} + {b} = {total}, {total} * {total - 1} / 2 = {answer}"
    return Exercise(f"How many pairs can {a} {rng.choice(_GROUPS).format(b)} form?", steps, str(answer))


def product_rule(rng: random.Random) -> Exercise:
    """Make three independent choices."""
    a, b, c = rng.randint(2, 9), rng.randint(2, 9), rng.randint(2, 4)
    first, second, third, whole = rng.choice(_MENUS)
    problem = f"Choose from {a} {first}, {b} {second} and {c} {third}. How many {whole}?"
    return Exercise(problem, f"{a} * {b} = {a * b}, {a * b} * {c} = {a * b * c}", str(a * b * c))


def arithmetic_sequence(rng: random.Random) -> Exercise:
    """Make the n-th term from the first two."""
    first, step, n = rng.randint(1, 60), rng.randint(2, 9), rng.randint(5, 20)
    second, grown = first + step, (n - 1) * step
    steps = f"{second} - {first} = {step}, {n - 1} * {step} = {grown}, {first} + {grown} = {first + grown}"
    problem = f"An arithmetic sequence starts {first}, {second}. Find term {n}."
    return Exercise(problem, steps, str(first + grown))


def derivative_at_a_point(rng: random.Random) -> Exercise:
    """Make the slope of a quadratic, negative ones included."""
    a, x = rng.randint(2, 9), rng.randint(2, 9)
    b = rng.choice((-1, 1)) * rng.randint(1, 60)
    sign, slope = ("+" if b > 0 else "-"), 2 * a * x
    steps = f"{2 * a} * {x} = {slope}, {slope} {sign} {abs(b)} = {slope + b}"
    return Exercise(f"Let y = {a}x^2 {sign} {abs(b)}x. Find y' at {x}.", steps, str(slope + b))


def sum_of_three(rng: random.Random) -> Exercise:
    """Make two additions."""
    a, b, c = rng.randint(10, 99), rng.randint(10, 99), rng.randint(1, 50)
    steps = f"{a} + {b} = {a + b}, {a + b} + {c} = {a + b + c}"
    return Exercise(f"Add {a}, {b} and {c}.", steps, str(a + b + c))


KINDS: dict[str, tuple[Callable[[random.Random], Exercise], ...]] = {
    "algebra": (linear_equation,),
    "geometry": (rectangle_perimeter, rectangle_area, third_angle),
    "number theory": (greatest_common_divisor, remainder, last_digit),
    "combinatorics & probability": (chance_of_a_colour, pairs_of_people, product_rule),
    "precalculus": (arithmetic_sequence,),
    "calculus & analysis": (derivative_at_a_point,),
    "other": (sum_of_three,),
}


def pool_of(problem: str) -> Pool:
    """Return the pool that a problem belongs to, by its own text alone.

    The toy models are pre-trained on one and every problem of a demonstration comes from the other, whatever the
    seeds, so that no seed can leak a pre-training problem into an evaluation.
    """
    return "demo" if hashlib.sha256(problem.encode()).digest()[0] % DEMO_SHARE == 0 else "pretraining"


def _distinct(subject: str, seed: int, pool: Pool) -> Iterator[dict[str, str]]:
    """Yield distinct rows of one subdomain; stop when new ones can no longer be found."""
    rng = random.Random(f"{seed} {subject}")
    seen: set[str] = set()
    misses = 0
    while misses < _MAX_MISSES:
        worked = rng.choice(KINDS[subject])(rng)
        if worked.problem in seen or pool_of(worked.problem) != pool:
            misses += 1
            continue
        misses = 0
        seen.add(worked.problem)
        yield {
            "id": "toy-" + hashlib.sha256(worked.problem.encode()).hexdigest()[:12],
            "problem": worked.problem,
            "solution": f"{worked.steps} so \\boxed{{{worked.answer}}}",
            "answer": worked.answer,
            "subject": subject,
        }


def generate(n: int, seed: int, pool: Pool = "demo") -> list[dict[str, str]]:
    """Generate n distinct problems, the seven subdomains in turn.

    Args:
        n: number of rows.
        seed: same seed, same rows in the same order; a smaller n gives the beginning of a larger one.
        pool: "pretraining" is what the toy models have seen, "demo" the rest (see `pool_of`).

    Returns:
        Rows with the keys id, problem, solution (ends with the boxed answer), answer and subject.

    Raises:
        PaddError: there are not so many distinct problems.
    """
    sources = [_distinct(subject, seed, pool) for subject in KINDS]
    rows: list[dict[str, str]] = []
    for index in range(n):
        row = next(sources[index % len(sources)], None)
        if row is None:
            subject = list(KINDS)[index % len(sources)]
            raise PaddError(
                f"{n} toy problems were asked for but the subdomain '{subject}' has no more than "
                f"{index // len(sources)} distinct ones, so the file would repeat itself; ask for at most {index}."
            )
        rows.append(row)
    return rows
