"""Interfaces of torchao, which is optional: AdamW whose moments are 8-bit codes with a scale for each block of 256."""

import importlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from padd_artifacts.errors import UsageError
from padd_stages.lib.compat.probes import Library, Probe, require

EXTRA = "pip install 'padd[low-bit]'"
# first and second moment; only the first has a sign
SIGNED = {"exp_avg": True, "exp_avg_sq": False}


def require_low_bit() -> None:
    """Check that torchao is there and is as padd needs it.

    Raises:
        UsageError: it is not installed.
        PaddError: another torchao than padd knows.
    """
    try:
        _module()
    except ImportError as error:
        raise UsageError(
            f"--optimizer adamw-8bit needs torchao, which cannot be imported ({error}); `{EXTRA}`, or leave it out."
        ) from error
    require(LIBRARY)


def make_adamw_8bit(
    parameters: Sequence[nn.Parameter],
    *,
    learning_rate: float,
    betas: tuple[float, float],
    weight_decay: float,
) -> torch.optim.Optimizer:
    """Build torchao's AdamW with 8-bit moments; a parameter whose part here cannot be cut into blocks has fp32 ones.

    Its learning rate is a tensor, to be filled. On a GPU its step is compiled, once for each shape; on a CPU it runs
    as it is written, since compiling takes 10 s a shape there, needs a C++ compiler, and saves no memory worth it.
    """
    optimizer = _module().AdamW8bit(parameters, lr=learning_rate, betas=betas, weight_decay=weight_decay)
    if not all(parameter.is_cuda for parameter in parameters):
        optimizer.step = torch.compiler.set_stance("force_eager")(optimizer.step)
    return optimizer


def codes_and_scale(moment: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return the codes, in the moment's shape, and the scales (blocks,) of 8-bit moments; None of others."""
    codes, scale = getattr(moment, "codes", None), getattr(moment, "scale", None)
    return None if codes is None or scale is None else (codes, scale)


def empty_moments(optimizer: Any, parameter: nn.Parameter) -> dict[str, Tensor]:
    """Return zeros in the form in which the optimizer keeps the moments of a parameter."""
    return {name: optimizer._new_buffer(parameter, signed) for name, signed in SIGNED.items()}


def dequantized(codes: Tensor, scale: Tensor, *, signed: bool) -> Tensor:
    """Return the numbers (n,) that codes (n,) with the scales (blocks,) of their blocks stand for."""
    state = _module("torchao.optim.subclass_8bit").OptimState8bit
    block = codes.numel() // scale.numel()
    moment = state.zeros(codes.shape, signed=signed, block_size=block, device=codes.device, dtype=scale.dtype)
    moment.codes.copy_(codes)
    moment.scale.copy_(scale)
    return moment.dequantize()


def _module(name: str = "torchao.optim") -> Any:
    return importlib.import_module(name)


def _check_moments() -> None:
    parameter = nn.Parameter(torch.ones(16, 256))
    optimizer: Any = make_adamw_8bit([parameter], learning_rate=0.5, betas=(0.9, 0.95), weight_decay=0.0)
    parameter.grad = torch.ones_like(parameter)
    optimizer.param_groups[0]["lr"].fill_(0.25)
    optimizer.step()
    if (parameter.detach() - 0.75).abs().max() > 1e-3:
        raise RuntimeError("its learning rate is not the one that was filled in")
    state = optimizer.state[parameter]
    for name, empty in empty_moments(optimizer, parameter).items():
        found, new = codes_and_scale(state[name]), codes_and_scale(empty)
        if found is None or new is None:
            raise RuntimeError(f"{name} has no codes with a scale")
        if [part.shape for part in found] != [(16, 256), (16,)] or found[0].dtype != torch.uint8:
            raise RuntimeError(f"{name} is not one code a number and one scale for each 256")
        new[0].copy_(found[0])
        new[1].copy_(found[1])
        numbers = dequantized(found[0].flatten(), found[1], signed=SIGNED[name]).view(16, 256)
        if not torch.equal(empty.dequantize(), numbers):
            raise RuntimeError(f"{name} is more than its codes and scales")


LIBRARY = Library(
    "torchao",
    (
        Probe(
            "`AdamW8bit._new_buffer`, `OptimState8bit.zeros`, `.codes`, `.scale`, the learning rate as a tensor",
            "train with 8-bit moments and resume",
            _check_moments,
        ),
    ),
)
