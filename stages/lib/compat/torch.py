"""Interfaces of torch."""

import torch

from padd_stages.lib.compat.probes import Library, Probe


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


LIBRARY = Library(
    "torch",
    (
        Probe(
            "`torch._C._current_graph_task_id`",
            "tell a recomputed forward from a first one",
            _check_in_backward,
        ),
    ),
)
