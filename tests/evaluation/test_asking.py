"""How the responses of an evaluation are put into groups that share batches."""

import random

from padd_stages.evaluation.asking import PADDING_PER_STEP, of_like_length
from padd_stages.rollout.sampling import Request


def request(length: int, number: int = 0) -> Request:
    return Request(tuple(range(length)), (length, number))


def test_groups_hold_every_request_once_the_longest_first_with_little_padding() -> None:
    chance = random.Random(0)
    requests = [request(chance.randint(10, 900)) for _ in range(300)]
    groups = of_like_length(requests, 20)
    assert sorted(index for group in groups for index in group) == list(range(300))
    lengths = [[len(requests[index].prompt_ids) for index in group] for group in groups]
    flat = [length for group in lengths for length in group]
    assert flat == sorted(flat, reverse=True)
    wasted = [sum(group[0] - length for length in set(group)) for group in lengths]
    assert all(waste <= PADDING_PER_STEP * 20 for waste in wasted)
    assert 1 < len(groups) < 100


def test_long_responses_share_one_batch_and_samples_of_a_prompt_count_once() -> None:
    assert len(of_like_length([request(900), *[request(10)] * 3], 3000)) == 1
    samples = [request(40, number) for number in range(50)] + [request(30, number) for number in range(50)]
    assert of_like_length(samples, 1) == [list(range(100))]
    assert len(of_like_length([request(100), request(10)], 1)) == 2
