from fractions import Fraction

import pytest
import torch

from padd_stages.toy.measuring import accuracy, boxed_answer, expert_loads, parameter_counts, respond
from padd_stages.toy.models import new_student, new_teacher
from padd_stages.toy.problems import generate
from padd_stages.toy.tokenizer import build_tokenizer

TOKENIZER = build_tokenizer(1)


@pytest.fixture(scope="module")
def student():
    torch.manual_seed(0)
    return new_student(TOKENIZER, 0.0)


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"1 + 2 = 3 so \boxed{3}", Fraction(3)),
        (r"so \boxed{-12}", Fraction(-12)),
        (r"so \boxed{8/18}", Fraction(4, 9)),
        (r"\boxed{1} so \boxed{2}", Fraction(2)),
        (r"\boxed{1/0}", None),
        (r"\boxed{1/00}", None),
        (r"\boxed{}", None),
        (r"\boxed{x}", None),
        (r"\boxed{12", None),
        ("12", None),
    ],
)
def test_boxed_answer(response, answer):
    assert boxed_answer(response) == answer


def test_greedy_responses_do_not_depend_on_the_batch(student):
    problems = [row["problem"] for row in generate(5, seed=1)]
    together = respond(student, TOKENIZER, problems)
    assert together == [respond(student, TOKENIZER, [problem])[0] for problem in problems]
    assert len(together) == 5


def test_sampling_follows_its_seed_and_leaves_the_callers_generator_alone(student):
    problems = [row["problem"] for row in generate(3, seed=1)]
    state = torch.get_rng_state()
    first = respond(student, TOKENIZER, problems, sampled=True, seed=1)
    assert torch.equal(state, torch.get_rng_state())
    assert first == respond(student, TOKENIZER, problems, sampled=True, seed=1)
    assert first != respond(student, TOKENIZER, problems, sampled=True, seed=2)


def test_accuracy_counts_per_subdomain(student, monkeypatch):
    rows = generate(14, seed=1)
    said = [row["solution"] for row in rows[:8]] + ["so \\boxed{99999}"] * 6
    monkeypatch.setattr("padd_stages.toy.measuring.respond", lambda *_, **__: said)
    shares = accuracy(student, TOKENIZER, rows)
    assert shares["all"] == round(8 / 14, 4)
    assert shares["algebra"] == 1.0
    assert shares["geometry"] == 0.5
    assert len(shares) == 8


def test_parameter_counts(student):
    counts = parameter_counts(student)
    routed = 3 * 8 * 3 * 96 * 88  # layers, experts, matrices, hidden size, expert width
    assert counts["total"] == sum(p.numel() for p in student.parameters())
    assert counts["total"] - counts["active"] == routed * 6 // 8
    torch.manual_seed(0)
    dense = parameter_counts(new_teacher(TOKENIZER))
    assert dense["total"] == dense["active"]


def test_expert_loads_are_shares_of_real_tokens(student):
    rows = generate(6, seed=1)
    loads = expert_loads(student, TOKENIZER, rows)
    assert [len(layer) for layer in loads] == [8, 8, 8]
    assert all(sum(layer) == pytest.approx(1.0, abs=1e-3) for layer in loads)
    singles = [expert_loads(student, TOKENIZER, [row]) for row in rows]  # no padding at all
    lengths = [
        len(TOKENIZER(row["problem"] + row["solution"]).input_ids) + 3 for row in rows
    ]  # 3 of the template
    for m in range(3):
        for j in range(8):
            mean = sum(one[m][j] * n for one, n in zip(singles, lengths, strict=True)) / sum(lengths)
            assert loads[m][j] == pytest.approx(mean, abs=2e-3)
