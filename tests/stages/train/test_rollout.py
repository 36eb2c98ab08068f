"""What a rollout makes of rewards: advantages, metrics, rows of samples.jsonl, columns for reward functions."""

import math
from collections import Counter
from typing import Any

import pytest
import torch
from trl.rewards import get_soft_overlong_punishment

from padd_stages.lib.data.sequences import TokenSequence
from padd_stages.lib.objectives.advantages import group_advantages
from padd_stages.train.collecting import requests_of
from padd_stages.train.options import TrainOptions
from padd_stages.train.rollout import (
    Prompt,
    Rollout,
    counted_rewards,
    reward_columns,
    score_metrics,
    scored_advantages,
)

NAN = math.nan


def trl_advantages(rewards: list[list[float]], *, scale: bool) -> list[list[float]]:
    """TRL's rule, response by response: mean and std (ddof 1) over the rewards that are there, else 0."""
    out = []
    for group in rewards:
        known = [r for r in group if not math.isnan(r)]
        mean = sum(known) / len(known) if known else NAN
        std = math.sqrt(sum((r - mean) ** 2 for r in known) / (len(known) - 1)) if len(known) > 1 else NAN
        values = [(r - mean) / (std + 1e-4) if scale else r - mean for r in group]
        out.append([0.0 if math.isnan(v) else v for v in values])
    return out


@pytest.mark.parametrize("scale", ["group", "none"])
def test_a_response_without_a_reward_enters_no_mean_and_gets_no_advantage(scale: Any) -> None:
    rewards = [[1.0, 0.0, NAN, 0.5], [0.2, 0.4, 0.9, 0.1], [NAN, NAN, NAN, 0.7], [NAN] * 4]
    advantages, metrics = scored_advantages(torch.tensor(rewards), scale)
    expected = torch.tensor(trl_advantages(rewards, scale=scale == "group"))
    assert torch.allclose(advantages, expected, atol=1e-6)
    assert metrics["reward"] == pytest.approx((1.5 + 1.6 + 0.7) / 8)
    assert metrics["reward_std"] == pytest.approx((0.5 + torch.tensor(rewards[1]).std().item()) / 2)


def test_with_a_reward_for_each_it_is_the_plain_formula() -> None:
    rewards = torch.rand(3, 5, generator=torch.Generator().manual_seed(0))
    advantages, metrics = scored_advantages(rewards, "group")
    plain, expected = group_advantages(rewards)
    assert torch.equal(advantages, plain)
    assert metrics == {name: float(value) for name, value in expected.items()}


def test_without_any_reward_there_is_nothing_to_learn() -> None:
    advantages, metrics = scored_advantages(torch.full((2, 3), NAN), "group")
    assert not advantages.any()
    assert all(math.isnan(value) for value in metrics.values())


def test_each_reward_is_measured_over_the_responses_that_it_applies_to() -> None:
    metrics = score_metrics({"a": [1.0, None, 0.0, 0.5], "b": [None, None, None, 2.0], "c": [None] * 4})
    assert metrics["rewards/a/mean"] == 0.5
    assert metrics["rewards/a/std"] == pytest.approx(0.5)
    assert metrics["rewards/b/mean"] == 2.0
    assert [math.isnan(metrics[f"rewards/{n}"]) for n in ("b/std", "c/mean", "c/std")] == [True] * 3


def prompt(**row: Any) -> Prompt:
    return Prompt({"problem": "p", "answer": "1", **row}, (1, 2), ())


def test_reward_functions_see_the_columns_of_the_source_too() -> None:
    prompts = [prompt(solution="s", extra={"level": 3, "prompt": "taken"}), prompt(id="b", extra={})]
    assert reward_columns(prompts) == {
        "level": [3, None],
        "problem": ["p", "p"],
        "answer": ["1", "1"],
        "solution": ["s", None],
        "id": [None, "b"],
    }


def test_samples_are_rows_of_a_table() -> None:
    rollout = Rollout(
        prompts=[prompt(), prompt()],
        share=[0, 1],
        sequences=[TokenSequence((1, 2), (3, 4, 5)), TokenSequence((1, 2), (3,))],
        texts=["three", "one"],
        truncated=[True, False],
        sampler_logprobs=[(), ()],
        scores={"accuracy": [0.0, 1.0], "own": [None, 0.5]},
        rewards=torch.tensor([NAN, 1.5]),
        correct=torch.tensor([0.0, 1.0]),
        advantages=torch.tensor([0.0, 0.25]),
    )
    first = {
        "step": 7,
        "prompt": "p",
        "response": "three",
        "reward": None,
        "rewards/accuracy": 0.0,
        "rewards/own": None,
        "advantage": 0.0,
        "truncated": True,
        "tokens": 3,
    }
    assert rollout.table(7, 1) == [first]
    assert [row["reward"] for row in rollout.table(7, 10)] == [None, 1.5]
    assert rollout.table(7, 0) == []


def test_a_problem_drawn_twice_in_a_rollout_gets_other_samples_the_second_time():
    options = TrainOptions(num_generations=3, seed=4)
    first, other = (Prompt({"id": name}, (1, 2), ()) for name in ("a", "b"))
    repeated = [prompt for prompt in (first, other, first) for _ in range(3)]
    keys = [request.key for request in requests_of(repeated, options, 5, Counter())]
    assert len(set(keys)) == 9
    assert keys[:6] == [(4, 5, name, number) for name in "ab" for number in range(3)]


REWARDS = torch.tensor([1.0, -0.5, NAN, 0.25])
CUT = torch.tensor([False, True, True, True])
LENGTHS = torch.tensor([10, 50, 50, 50])


def counted(kind: str, lengths: torch.Tensor = LENGTHS) -> torch.Tensor:
    options = TrainOptions(truncated=kind, max_completion_length=50)
    return counted_rewards(REWARDS, truncated=CUT, lengths=lengths, options=options)


def test_a_truncated_response_scores_0_in_rewards_of_ones_own_too():
    assert counted("zero").nan_to_num(9).tolist() == [1.0, 0.0, 9.0, 0.0]
    assert torch.equal(counted("keep").nan_to_num(9), REWARDS.nan_to_num(9))


def test_a_masked_response_has_no_advantage_and_is_in_no_mean():
    advantages, metrics = scored_advantages(counted("mask").view(2, 2), "none")
    assert advantages.tolist() == [[0, 0], [0, 0]]
    assert metrics["reward"] == 1.0


def test_soft_is_trls_overlong_punishment():
    lengths = torch.tensor([39, 41, 47, 50])
    trl = get_soft_overlong_punishment(max_completion_len=50, soft_punish_cache=10)
    punished = torch.tensor(trl(completion_ids=[[0] * int(n) for n in lengths]))
    assert torch.allclose(counted("soft", lengths), REWARDS + punished, equal_nan=True)
    assert punished.tolist() == pytest.approx([0.0, -0.1, -0.7, -1.0])
