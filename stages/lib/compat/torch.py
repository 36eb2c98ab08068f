"""Interfaces of torch."""

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode

from padd_stages.lib.compat.probes import Library, Probe

GROUPED_MM = torch.ops.aten._grouped_mm.default  # what a dispatch mode sees of `grouped_mm`


def in_backward() -> bool:
    """Return whether a backward pass is running, as it is when a checkpointed layer is recomputed."""
    # the question that torch.utils.checkpoint itself asks: inside the autograd engine a graph task has an id
    return torch._C._current_graph_task_id() != -1


def _check_in_backward() -> None:
    seen: list[bool] = []
    value = torch.ones(1, requires_grad=True)
    value.register_hook(lambda _: seen.append(in_backward()))
    (2 * value).sum().backward()
    if seen != [True] or in_backward():
        raise RuntimeError("it does not tell a backward pass from a forward")


def _check_dispatch_mode() -> None:
    seen: list[str] = []

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[override]
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    with Counting():
        _ = torch.ones(2, device="meta") + 1
        ends = torch.empty(2, dtype=torch.int32, device="meta")
        rows, weights = (
            torch.empty(shape, dtype=torch.bfloat16, device="meta") for shape in ((16, 8), (2, 8, 8))
        )
        nn.functional.grouped_mm(rows, weights, offs=ends)
    if not {"aten.add.Tensor", str(GROUPED_MM)} <= set(seen):
        raise RuntimeError("it does not see additions and grouped products on the meta device")


LIBRARY = Library(
    "torch",
    (
        Probe(
            "`torch._C._current_graph_task_id`",
            "tell a recomputed forward from a first one",
            _check_in_backward,
        ),
        Probe(
            "`torch.utils._python_dispatch.TorchDispatchMode`",
            "count the memory of a run before it starts",
            _check_dispatch_mode,
        ),
    ),
)
