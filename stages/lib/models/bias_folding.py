"""Router bias as ordinary weights, for programs that know nothing of padd (stock transformers, vLLM).

A family may have a place for such a bias: a bias of the router's logits (GPT-OSS), or of the choice alone
(DeepSeek-V3's e_score_correction_bias). Elsewhere a bias of the logits is folded into the router's matrix: with a
vector w for which w . h is as near to 1 as can be on the router's inputs h, (W + b w^T) h is near W h + b.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from padd_artifacts.errors import PaddError
from padd_stages.lib.measures.ridge import RidgeSums
from padd_stages.lib.models.moe_adapter import MoEAdapter

BIAS_ATTRIBUTES = {"logits": "bias", "selection": "e_score_correction_bias"}
RouterListener = Callable[[int, Tensor, Tensor], None]


def native_biases(adapter: MoEAdapter) -> list[Tensor] | None:
    """Return each router's own tensor (N,) that acts as the bias does; None where the family has none.

    Raises:
        PaddError: a bias of the choice alone in a family without a place for it: no weight has that effect.
    """
    found = [getattr(layer.router, BIAS_ATTRIBUTES[adapter.bias_mode], None) for layer in adapter.layers]
    places = [place for place in found if isinstance(place, Tensor)]
    if len(places) == len(found):
        return places
    if adapter.bias_mode == "selection":
        raise PaddError(
            "this student's bias acts on the choice of experts alone (--bias-mode selection) and its family has no "
            "such bias of its own, so no stock checkpoint routes like it; train with --bias-mode logits."
        )
    return None


@torch.no_grad()
def write_bias(adapter: MoEAdapter, places: list[Tensor]) -> None:
    """Add the bias to the routers' own, and set the adapter's to zero."""
    for place, bias in zip(places, adapter.bias, strict=True):
        place.add_(bias.to(place))
    adapter.set_bias(torch.zeros_like(adapter.bias))


def fit_constants(
    adapter: MoEAdapter, read: Callable[[RouterListener], None], penalty: float
) -> list[Tensor]:
    """Return w (D,) of each MoE layer, fp64, for which w . h is nearest to 1 on what its router gets.

    Args:
        read: calls its argument with every layer's tokens.
        penalty: as of `RidgeSums.solve`.
    """
    sums = [RidgeSums(adapter.router_weight(m).shape[1], 1) for m in range(adapter.num_layers)]
    read(lambda m, hidden, _: sums[m].add(hidden, hidden.new_ones(len(hidden), 1)))
    return [layer.solve(penalty)[0] for layer in sums]


def folded_row(bias: Tensor, constant: Tensor) -> Tensor:
    """Return b w^T (N, D), fp64: what a router's matrix gets for a bias (N,).

    Rank one, since b is one vector for all tokens: w . h is a scalar that is about 1 on every input h, so the matrix
    adds about b to every token's logits.
    """
    return torch.outer(bias.double(), constant.to(bias.device).double())


@torch.no_grad()
def fold_bias(adapter: MoEAdapter, constants: list[Tensor]) -> None:
    """Add b w^T to each router's matrix, and set the adapter's bias to zero.

    Args:
        constants: w (D,) of each MoE layer.
    """
    for m, (bias, constant) in enumerate(zip(adapter.bias, constants, strict=True)):
        weight = adapter.router_weight(m)
        weight.add_(folded_row(bias, constant).to(weight))
    adapter.set_bias(torch.zeros_like(adapter.bias))


@contextmanager
def watch_routers(adapter: MoEAdapter, see: RouterListener) -> Iterator[None]:
    """Call `see(m, hidden, indices)`, (tokens, D) and (tokens, K), for what every router really returns."""

    def hook(m: int) -> Any:
        def seen(_: Any, args: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
            see(m, args[0].reshape(-1, args[0].shape[-1]), output[2])

        return seen

    handles = [layer.router.register_forward_hook(hook(m)) for m, layer in enumerate(adapter.layers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
