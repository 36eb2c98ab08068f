"""The training text, its labels and the loss, against slow and obvious versions of themselves."""

import random
import re
from itertools import pairwise

import pytest
import torch
from torch.nn.functional import log_softmax

from padd_stages.toy.models import new_student, new_teacher
from padd_stages.toy.pretraining import (
    Schedule,
    _collate,
    _examples,
    _losses,
    corrupt,
    learning_rate_share,
    pretrain,
    prompt_text,
)
from padd_stages.toy.problems import generate
from padd_stages.toy.tokenizer import build_tokenizer

TOKENIZER = build_tokenizer(1)
ROWS = generate(70, seed=5, pool="pretraining")


def new_model(kind: str):
    torch.manual_seed(0)
    return new_teacher(TOKENIZER) if kind == "teacher" else new_student(TOKENIZER, 0.01)


def test_corruption_changes_one_digit_of_one_number():
    rng = random.Random(0)
    for row in ROWS:
        wrong = corrupt(row["solution"], rng)
        changed = [(a, b) for a, b in zip(row["solution"], wrong, strict=True) if a != b]
        assert len(changed) == 1
        assert all(digit.isdigit() for digit in changed[0])


def test_corruption_reaches_every_number():
    rng = random.Random(0)
    solution = "12 + 7 = 19, 19 + 3 = 22 so \\boxed{22}"
    right = re.findall(r"\d+", solution)
    hit = [re.findall(r"\d+", corrupt(solution, rng)) for _ in range(400)]
    assert {place for found in hit for place in range(7) if found[place] != right[place]} == set(range(7))


def test_half_of_the_solutions_are_corrupted_and_anew_in_every_pass():
    examples = _examples(TOKENIZER, ROWS, Schedule(steps=1, learning_rate=1.0, seed=0, corrupted=0.5))
    right = {(*TOKENIZER(row["solution"]).input_ids, TOKENIZER.eos_token_id) for row in ROWS}
    drawn = [tuple(next(examples)[1]) for _ in range(70 * 20)]
    assert 0.45 < sum(solution in right for solution in drawn) / len(drawn) < 0.55
    assert len(set(drawn)) > 300


def test_labels_stand_on_the_solution_and_its_end_only():
    examples = _examples(TOKENIZER, ROWS, Schedule(steps=1, learning_rate=1.0, seed=0))
    batch = [next(examples) for _ in range(9)]
    ids, labels = _collate(batch, TOKENIZER.pad_token_id)
    by_prompt = {prompt_text(TOKENIZER, row["problem"]): row["solution"] for row in ROWS}
    for (prompt, _), row, label in zip(batch, ids, labels, strict=True):
        solution = by_prompt[TOKENIZER.decode(prompt)]
        assert TOKENIZER.decode(label[label != -100]) == solution + "<|end|>"
        assert TOKENIZER.decode(row[: len(prompt)]) == TOKENIZER.decode(prompt)
        assert (row[label != -100] == label[label != -100]).all()


def test_learning_rate_rises_then_falls_to_zero():
    schedule = Schedule(steps=300, learning_rate=1.0, seed=0)
    shares = [learning_rate_share(step, schedule) for step in range(301)]
    assert shares[0] == pytest.approx(0.02)
    assert max(shares) == shares[49] == shares[50] == 1.0
    assert shares[175] == pytest.approx(0.5)
    assert shares[300] == pytest.approx(0.0, abs=1e-12)
    assert all(later <= earlier for earlier, later in pairwise(shares[50:]))


@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_loss_is_the_mean_over_solution_tokens_whatever_the_padding(kind):
    model = new_model(kind).eval()
    examples = _examples(TOKENIZER, ROWS, Schedule(steps=1, learning_rate=1.0, seed=0))
    batch = [next(examples) for _ in range(8)]
    _, entropy = _losses(model, *_collate(batch, TOKENIZER.pad_token_id))
    total, count = 0.0, 0
    for prompt, solution in batch:
        log_probs = log_softmax(model(torch.tensor([prompt + solution])).logits[0].double(), dim=-1)
        for offset, token in enumerate(solution):
            total -= log_probs[len(prompt) + offset - 1, token].item()
            count += 1
    assert entropy.item() == pytest.approx(total / count, rel=1e-5)


def test_only_the_student_has_a_balancing_loss_and_it_is_one_when_balanced():
    ids, labels = _collate([([1, 2, 3], [4, 5]), ([1, 2], [4])], TOKENIZER.pad_token_id)
    loss, entropy = _losses(new_model("teacher"), ids, labels)
    assert loss is entropy
    student = new_model("student")
    with torch.no_grad():
        for layer in student.model.layers:
            layer.mlp.gate.weight.zero_()
    loss, entropy = _losses(student, ids, labels)
    # Equal probabilities 1/N, whatever the choice: N * sum_j (share_j * 1/N) = K (transformers counts each slot).
    assert (loss - entropy).item() == pytest.approx(0.01 * 2, rel=1e-4)


@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_training_learns_and_repeats_itself(kind):
    def train():
        model = new_model(kind)
        schedule = Schedule(steps=8, learning_rate=3e-3, seed=0, batch_size=7, warmup_steps=2)
        return pretrain(model, TOKENIZER, ROWS, schedule), model.state_dict()

    (loss, state), (again, state_again) = train(), train()
    assert loss == again
    assert all(torch.equal(tensor, state_again[name]) for name, tensor in state.items())
    untrained, _ = _losses(new_model(kind), *_collate([([1, 2, 3], [4, 5])], TOKENIZER.pad_token_id))
    assert loss < untrained.item()
