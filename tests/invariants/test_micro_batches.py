"""How a rollout is cut into micro-batches changes neither losses nor gradient norms, for any method."""

import pytest

from padd_stages.train import old_policy as passes

CUTS = {"1x8": [8], "2x4": [4, 4], "8x1": [1] * 8}
CASES = {
    "grpo": {"preset": "grpo", "loss_type": "grpo"},
    "dapo": {"preset": "grpo", "beta_ref": 0.5},
    "dr_grpo": {"preset": "dr-grpo"},
    "gspo": {"preset": "gspo", "epsilon": 0.2, "epsilon_high": 0.3},  # its own range clips all of so few
    "gmpo": {"preset": "gmpo"},
    "rspo": {"preset": "rspo"},
    "rspo v1": {"preset": "rspo", "router_shift": "after-clip"},
    "padd": {"preset": "padd", "eta": 0.1, "gamma": 0.1},
    "literal": {"preset": "literal", "drift_lambda": 50.0, "drift_grad": True},
    "replay": {"preset": "padd", "router_replay": "old"},
    "mini-batches": {"preset": "padd", "mini_batches": 2},
    "further terms": {"entropy_coef": 0.1, "router_aux_loss_coef": 0.1, "kd_weight": 1.0, "kd_clamp": 0.1},
    "kd as advantage": {"preset": "online-kd", "kd_as": "advantage", "kd_clamp": 0.5},
    "stable-moe": {"preset": "stable-moe"},
    "rollout-replay": {"preset": "padd", "router_replay": "rollout"},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_cutting_changes_nothing(trained, monkeypatch, case):
    rows, cuts = {}, []
    for name, sizes in CUTS.items():

        def cut(lengths, budget, sizes=sizes):
            cuts.append(len(lengths))
            ends = [min(sum(sizes[: i + 1]), len(lengths)) for i in range(len(sizes))]
            return [list(range(a, b)) for a, b in zip([0, *ends], ends, strict=False) if a < b]

        monkeypatch.setattr(passes, "micro_batches", cut)
        rows[name] = trained(name, **case).jsonl("metrics.jsonl")
    assert set(cuts) == {8 // case.get("mini_batches", 1)}
    for name in ("2x4", "8x1"):
        for whole, parts in zip(rows["1x8"], rows[name], strict=True):
            assert list(parts) == list(whole)
            for metric, value in whole.items():
                expected = value if isinstance(value, str) else pytest.approx(value, rel=2e-4, abs=2e-6)
                assert parts[metric] == expected, metric
    assert rows["1x8"][-1]["grad_norm"] > 1e-3
