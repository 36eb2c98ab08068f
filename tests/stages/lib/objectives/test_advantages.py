import statistics

import pytest
import torch

from padd_stages.lib.objectives.advantages import group_advantages


def test_matches_a_loop_in_fp64():
    rewards = torch.rand(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rewards[2] = 0.1
    advantages, metrics = group_advantages(rewards)
    spreads = []
    for p, row in enumerate(rewards.tolist()):
        mean, std = sum(row) / 3, statistics.stdev(row)
        spreads.append(std)
        for g, reward in enumerate(row):
            assert float(advantages[p, g]) == pytest.approx((reward - mean) / (std + 1e-4), abs=1e-9)
    assert float(metrics["reward"]) == pytest.approx(float(rewards.mean()), abs=1e-12)
    assert float(metrics["reward_std"]) == pytest.approx(sum(spreads) / 5, abs=1e-12)
    assert float(metrics["frac_reward_zero_std"]) == pytest.approx(0.2)


def test_by_hand():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0]], dtype=torch.float64)  # std = sqrt(1/3)
    scaled, _ = group_advantages(rewards)
    plain, _ = group_advantages(rewards, "none")
    assert plain.tolist() == [[0.5, -0.5, -0.5, 0.5]]
    assert float(scaled[0, 0]) == pytest.approx(0.5 / (3**-0.5 + 1e-4), abs=1e-12)


def test_equal_rewards_give_exactly_zero():
    rewards = torch.full((1, 7), 0.1)
    assert float((rewards - rewards.mean()).abs().max()) > 0, (
        "the case is only worth a test where the mean rounds"
    )
    advantages, metrics = group_advantages(rewards)
    assert advantages.tolist() == [[0.0] * 7]
    assert float(metrics["reward_std"]) == 0.0


@pytest.mark.parametrize(
    "rewards", [torch.zeros(3), torch.zeros(3, 1), torch.tensor([[1.0, float("nan")]]), torch.zeros(0, 4)]
)
def test_refuses_what_has_no_group(rewards):
    with pytest.raises(ValueError):
        group_advantages(rewards)


def test_refuses_an_unknown_scale():
    with pytest.raises(ValueError, match="batch"):
        group_advantages(torch.rand(2, 3), "batch")  # type: ignore[arg-type]
