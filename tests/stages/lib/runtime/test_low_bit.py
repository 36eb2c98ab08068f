"""AdamW with 8-bit moments: it moves weights as fp32 moments do, its bytes are the planned ones, it resumes exactly."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from padd_artifacts.errors import UsageError
from padd_stages.lib.compat.torchao import codes_and_scale
from padd_stages.lib.planning.budget import MOMENT_BYTES
from padd_stages.lib.runtime.checkpoints import load_checkpoint, save_checkpoint
from padd_stages.lib.runtime.optimization import UpdateGuard, make_optimizer, require_optimizer
from padd_stages.lib.runtime.processes import Processes

ALONE = Processes(torch.device("cpu"))
# experts; what is no multiple of a block; what is smaller than torchao makes codes of; what never has a gradient
SHAPES = {"experts": (5, 96, 64), "odd": (33, 129), "norm": (64,), "unused": (64, 128)}


def parameters() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: nn.Parameter(0.02 * torch.randn(*shape, generator=generator)) for name, shape in SHAPES.items()
    }


def optimizer_of(named: dict[str, nn.Parameter], name: str) -> torch.optim.Optimizer:
    return make_optimizer(named.values(), learning_rate=1e-6, weight_decay=0.0, name=name)  # type: ignore[arg-type]


def update(named: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, steps: range) -> None:
    """Rows of very different gradients, so that a block's scale is not that of every number in it."""
    guard = UpdateGuard(optimizer, max_grad_norm=1.0, processes=ALONE)
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for name in ("experts", "odd", "norm"):
            shape = SHAPES[name]
            noise = torch.randn(*shape, generator=generator)
            named[name].grad = noise * torch.logspace(-4, -2, shape[-1])
        guard.step(learning_rate=1e-6 * (1 - step / 40))


def moved(named: dict[str, nn.Parameter], name: str) -> Tensor:
    return named[name].detach() - parameters()[name].detach()


def test_twenty_updates_at_the_papers_rate_go_as_far_as_with_fp32_moments():
    exact, ours = parameters(), parameters()
    update(exact, optimizer_of(exact, "adamw"), range(20))
    update(ours, optimizer_of(ours, "adamw-8bit"), range(20))
    for name in ("experts", "odd", "norm"):
        wanted, found = moved(exact, name), moved(ours, name)
        assert (found != 0).double().mean() > 0.99 * (wanted != 0).double().mean()
        assert found.norm() == pytest.approx(float(wanted.norm()), rel=0.02)
        assert torch.cosine_similarity(found.flatten(), wanted.flatten(), dim=0) > 0.99
    assert not moved(ours, "unused").any()


def test_the_moments_of_a_model_take_the_planned_bytes():
    named = parameters()
    optimizer = optimizer_of(named, "adamw-8bit")
    update(named, optimizer, range(1))
    for name, shape in SHAPES.items():
        if name == "unused":
            assert named[name] not in optimizer.state
            continue
        moments = [optimizer.state[named[name]][key] for key in ("exp_avg", "exp_avg_sq")]
        parts = [codes_and_scale(moment) or (moment,) for moment in moments]
        taken = sum(part.nbytes for pair in parts for part in pair)
        kind = "adamw-8bit" if name == "experts" else "adamw"
        assert taken == torch.Size(shape).numel() * MOMENT_BYTES[kind]  # type: ignore[index]


def test_a_checkpoint_between_updates_changes_no_bit(tmp_path: Path):
    through, cut = parameters(), parameters()
    update(through, optimizer_of(through, "adamw-8bit"), range(6))
    optimizer = optimizer_of(cut, "adamw-8bit")
    update(cut, optimizer, range(3))
    save_checkpoint(
        tmp_path,
        3,
        parameters=cut,
        tensors={},
        optimizer=optimizer,
        state={},
        logs=[],
        keep=1,
        processes=ALONE,
    )
    again = parameters()
    optimizer = optimizer_of(again, "adamw-8bit")
    load_checkpoint(tmp_path, parameters=again, optimizer=optimizer, processes=ALONE)
    update(again, optimizer, range(3, 6))
    for name in SHAPES:
        assert torch.equal(again[name], through[name])


def test_without_torchao_it_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    require_optimizer("adamw")
    with pytest.raises(UsageError, match=r"needs torchao.*pip install 'padd\[low-bit\]'"):
        require_optimizer("adamw-8bit")
