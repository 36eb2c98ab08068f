"""Gradient checkpointing repeats forwards in the backward pass and changes nothing: weights, bias, frequencies."""

import pytest
import torch

from padd_stages.lib.models.moe_adapter import MoEAdapter

CASES = {
    "padd": {"preset": "padd", "eta": 0.1, "gamma": 0.1},
    "drift gradient": {"preset": "padd", "drift_units": "raw", "drift_lambda": 50.0, "drift_grad": True},
    "replay": {"preset": "padd", "router_replay": "old"},
    "further terms": {"entropy_coef": 0.1, "router_aux_loss_coef": 0.1, "kd_weight": 1.0, "kd_clamp": 0.1},
    "rollout-replay": {"preset": "padd", "router_replay": "rollout"},
    "rspo": {"preset": "rspo"},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_checkpointing_changes_nothing(trained, weights, monkeypatch, case):
    recomputed, route = [], MoEAdapter._route

    def watched(self, *arguments):
        recomputed.append(torch._C._current_graph_task_id() != -1)
        return route(self, *arguments)

    monkeypatch.setattr(MoEAdapter, "_route", watched)
    plain = trained("plain", **case)
    assert not any(recomputed)
    saved = trained("saved", **case, gradient_checkpointing=True)
    assert any(recomputed), "no layer was checkpointed, so the comparison would say nothing"
    for before, after in zip(plain.jsonl("metrics.jsonl"), saved.jsonl("metrics.jsonl"), strict=True):
        for metric, value in before.items():
            expected = value if isinstance(value, str) else pytest.approx(value, rel=1e-5, abs=1e-7)
            assert after[metric] == expected, metric
    ours = weights(saved)
    for name, value in weights(plain).items():
        torch.testing.assert_close(ours[name], value, atol=1e-5, rtol=0, msg=name)
