"""Schedules, orders and checkpoints."""

import math

import pytest
import torch
from torch import nn

from padd_artifacts.errors import PaddError
from padd_stages.lib.runtime.checkpoints import load_checkpoint, save_checkpoint
from padd_stages.lib.runtime.optimization import (
    MAX_BROKEN_UPDATES,
    UpdateGuard,
    learning_rate_at,
    make_optimizer,
)
from padd_stages.lib.runtime.processes import Processes
from padd_stages.lib.runtime.seeds import rows_at

ALONE = Processes(torch.device("cpu"))


def test_the_learning_rate_rises_then_falls_to_nearly_zero():
    rates = [
        learning_rate_at(step, steps=10, peak=8.0, warmup_steps=3, schedule="linear") for step in range(10)
    ]
    assert rates == pytest.approx([2, 4, 6, 8, 8 * 6 / 7, 8 * 5 / 7, 8 * 4 / 7, 8 * 3 / 7, 8 * 2 / 7, 8 / 7])
    assert learning_rate_at(9, steps=10, peak=8.0, warmup_steps=0, schedule="constant") == 8.0


def test_the_stream_of_rows_visits_every_row_once_an_epoch():
    stream = [row for start in range(0, 21, 3) for row in rows_at(5, start, 3, 7)]
    assert [sorted(stream[i : i + 7]) for i in (0, 7, 14)] == [list(range(7))] * 3
    assert stream[:7] != stream[7:14]
    assert rows_at(5, 4, 6, 7) == stream[4:10]


def test_a_broken_gradient_is_skipped_and_too_many_stop_the_run():
    layer = nn.Linear(2, 3)
    optimizer = make_optimizer(layer.parameters(), learning_rate=1.0, weight_decay=0.0)
    guard = UpdateGuard(optimizer, 1.0, Processes(torch.device("cpu")))
    before = layer.weight.detach().clone()
    for count in range(1, MAX_BROKEN_UPDATES + 1):
        (layer(torch.ones(1, 2)).sum() * math.nan).backward()
        if count < MAX_BROKEN_UPDATES:
            guard.step(0.1)
        else:
            with pytest.raises(PaddError, match="in a row"):
                guard.step(0.1)
    assert guard.skipped == MAX_BROKEN_UPDATES
    assert torch.equal(layer.weight, before)
    guard.broken_in_a_row = 0
    layer(torch.ones(1, 2)).sum().backward()
    guard.step(0.1)
    assert not torch.equal(layer.weight, before)


def _train(layer: nn.Linear, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        layer(torch.arange(8.0).view(2, 4)).square().sum().backward()
        optimizer.step()


def test_a_checkpoint_restores_weights_moments_logs_and_state(tmp_path):
    torch.manual_seed(0)
    layer = nn.Linear(4, 3)
    optimizer = make_optimizer(layer.parameters(), learning_rate=0.1, weight_decay=0.0)
    _train(layer, optimizer, 2)
    log = tmp_path / "metrics.jsonl"
    log.write_text("two\n")
    named = dict(layer.named_parameters())

    def save(step: int) -> None:
        save_checkpoint(
            tmp_path,
            step,
            parameters=named,
            tensors={"bias": torch.ones(2)},
            optimizer=optimizer,
            state={"scale": 0.1 + 0.2},
            logs=["metrics.jsonl"],
            keep=2,
            processes=ALONE,
        )

    save(1)
    save(2)
    _train(layer, optimizer, 3)
    expected = layer.weight.detach().clone()
    log.write_text("two\nthree\n")
    torch.manual_seed(9)
    fresh = nn.Linear(4, 3)
    again = make_optimizer(fresh.parameters(), learning_rate=0.1, weight_decay=0.0)
    (tmp_path / "checkpoints" / "step-000009").mkdir()  # the rest of a kill: no state.json
    step, state, tensors = load_checkpoint(
        tmp_path, parameters=dict(fresh.named_parameters()), optimizer=again, processes=ALONE
    )
    assert (step, state["scale"], tensors["bias"].tolist(), log.read_text()) == (
        2,
        0.1 + 0.2,
        [1, 1],
        "two\n",
    )
    _train(fresh, again, 3)
    assert torch.equal(fresh.weight, expected)
    save(3)
    assert sorted(path.name for path in (tmp_path / "checkpoints").glob("*/state.json")) == ["state.json"] * 2
    assert not (tmp_path / "checkpoints" / "step-000001").exists()
