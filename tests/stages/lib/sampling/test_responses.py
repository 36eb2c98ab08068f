"""Sampling: the right distribution, and randomness that belongs to a response."""

import random

import pytest
import torch

from padd_stages.lib.sampling.responses import (
    PADDING_PER_STEP,
    Request,
    Sampling,
    batches_by_tokens,
    cut_response,
    sample,
)
from padd_stages.lib.sampling.token_draws import draw_tokens, uniforms_from_keys


def test_draws_follow_the_softmax_and_the_nucleus():
    count = 40_000
    logits = torch.tensor([2.0, 0.5, -1.0, 1.0, -30.0])
    uniforms = uniforms_from_keys([("x",)], count)[0]
    nucleus = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0])  # the first holds 0.62 of the mass, two hold 0.85
    for temperature, top_p in ((1.0, 1.0), (0.7, 1.0), (1.0, 0.8)):
        expected = torch.softmax(logits / temperature, -1)
        if top_p < 1:
            expected = expected * nucleus / (expected * nucleus).sum()
        tokens = draw_tokens(logits.expand(count, -1), uniforms, temperature, top_p)
        assert torch.allclose(torch.bincount(tokens, minlength=5) / count, expected, atol=0.01)


def test_extreme_draws_stay_inside_the_vocabulary():
    draws = torch.tensor([0.0, 1.0 - 1e-16, 0.5], dtype=torch.float64)
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf]]).expand(3, -1)
    assert draw_tokens(logits, draws, 1.0).tolist() == [1, 1, 1]


def test_uniforms_depend_on_the_key_alone():
    a, b = uniforms_from_keys([(0, 1, "p", 2), (0, 1, "p", 3)], 5)
    assert torch.equal(uniforms_from_keys([(0, 1, "p", 3)], 5)[0], b)
    assert not torch.equal(a, b)
    assert torch.equal(uniforms_from_keys([(0, 1, "p", 3)], 9)[0, :5], b)


def request(length: int, number: int = 0) -> Request:
    return Request(tuple(range(length)), (length, number))


@pytest.mark.parametrize("budget", [1, 3_000, 10**9])
def test_batches_hold_every_request_once_the_longest_first_with_little_padding(budget):
    chance = random.Random(0)
    requests = [request(chance.randint(10, 900)) for _ in range(300)]
    batches = batches_by_tokens(requests, Sampling(20), budget)
    assert sorted(index for batch in batches for index in batch) == list(range(300))
    lengths = [[len(requests[index].prompt_ids) for index in batch] for batch in batches]
    flat = [length for batch in lengths for length in batch]
    assert flat == sorted(flat, reverse=True)
    wasted = [sum(batch[0] - length for length in set(batch)) for batch in lengths]
    assert all(waste <= PADDING_PER_STEP * 20 for waste in wasted)
    assert all(len(batch) == 1 or len(batch) * (batch[0] + 20) <= budget for batch in lengths)
    assert len(batches) == 300 if budget == 1 else 1 < len(batches) < 300
    done = {index for batch in batches[:1] for index in batch}
    left = [index for index in range(300) if index not in done]
    again = batches_by_tokens([requests[index] for index in left], Sampling(20), budget)
    assert [[left[index] for index in batch] for batch in again] == batches[1:]


def test_long_responses_share_one_batch_and_samples_of_a_prompt_count_once():
    budget = 10**9
    assert len(batches_by_tokens([request(900), *[request(10)] * 3], Sampling(3000), budget)) == 1
    samples = [request(40, number) for number in range(50)] + [request(30, number) for number in range(50)]
    assert batches_by_tokens(samples, Sampling(1), budget) == [list(range(100))]
    apart = [request(20 + PADDING_PER_STEP), request(10)]
    assert len(batches_by_tokens(apart, Sampling(1), budget)) == 2


@pytest.mark.parametrize(
    ("row", "ids", "truncated"),
    [([5, 6, 1, 0, 0], (5, 6, 1), False), ([5, 6, 7], (5, 6, 7), True), ([2, 5], (2,), False)],
)
def test_a_response_ends_with_its_first_end_token(row, ids, truncated):
    response = cut_response(row, [1, 2])
    assert (response.token_ids, response.truncated) == (ids, truncated)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_batching_changes_no_response(pico, temperature):
    from padd_stages.lib.models.loading import load_model

    student = load_model(str(pico.student))
    requests = [Request((4, 7, 9, 11)[: 2 + i % 3], (0, i)) for i in range(7)]

    def texts(budget: int) -> list[tuple[int, ...]]:
        return [
            r.token_ids
            for r in sample(
                student.model,
                requests,
                Sampling(8, temperature),
                eos_ids=student.eos_ids,
                pad_id=student.pad_id,
                batch_tokens=budget,
            )
        ]

    whole = texts(10_000)
    assert texts(1) == whole
    if temperature:
        assert len(set(whole)) > 3
