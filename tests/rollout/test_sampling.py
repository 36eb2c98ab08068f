"""Sampling: the right distribution, and randomness that belongs to a response."""

import pytest
import torch

from padd_stages.rollout.draws import draw_tokens, uniforms_of
from padd_stages.rollout.sampling import Request, Sampling, batches_by_tokens, cut_response, sample


def test_draws_follow_the_softmax_and_the_nucleus():
    count = 40_000
    logits = torch.tensor([2.0, 0.5, -1.0, 1.0, -30.0])
    uniforms = uniforms_of([("x",)], count)[0]
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
    a, b = uniforms_of([(0, 1, "p", 2), (0, 1, "p", 3)], 5)
    assert torch.equal(uniforms_of([(0, 1, "p", 3)], 5)[0], b)
    assert not torch.equal(a, b)
    assert torch.equal(uniforms_of([(0, 1, "p", 3)], 9)[0, :5], b)


def test_batches_hold_every_request_once_within_the_budget():
    requests = [Request(tuple(range(length)), (length,)) for length in (3, 9, 1, 4, 9, 2)]
    batches = batches_by_tokens(requests, Sampling(6), 30)
    assert sorted(index for batch in batches for index in batch) == list(range(6))
    for batch in batches:
        width = max(len(requests[i].prompt_ids) for i in batch) + 6
        assert len(batch) == 1 or len(batch) * width <= 30


@pytest.mark.parametrize(
    ("row", "ids", "truncated"),
    [([5, 6, 1, 0, 0], (5, 6, 1), False), ([5, 6, 7], (5, 6, 7), True), ([2, 5], (2,), False)],
)
def test_a_response_ends_with_its_first_end_token(row, ids, truncated):
    response = cut_response(row, [1, 2])
    assert (response.token_ids, response.truncated) == (ids, truncated)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_batching_changes_no_response(pico, temperature):
    from padd_stages.models.loading import load_model

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
