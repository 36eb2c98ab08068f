"""Memory of models on the device of each process of a run, from their configurations alone."""

from collections.abc import Iterable
from math import ceil
from typing import Literal

import torch
from torch import nn

from padd_stages.lib.models.loading import DtypeName, load_meta_model
from padd_stages.lib.models.moe_adapter import MoEAdapter
from padd_stages.lib.models.policy import Policy
from padd_stages.lib.runtime.sharding import KEPT

GIB = 1 << 30
MOMENTS = 2  # of AdamW, in the kept weights' type


Trained = Literal["nothing", "experts", "all"]


def memory_per_process(
    name: str, dtype: DtypeName, processes: int, *, sharded: bool, trained: Trained
) -> dict[str, float]:
    """Estimate the GiB on each device, without activations, key-value caches and the buffers of collectives.

    Args:
        dtype: that the model computes in.
        sharded: each process keeps 1/processes of every tensor's rows, rounded up (FSDP2), and gathers one decoder
            layer after another; GPUs gather the next one meanwhile.
        trained: what has gradients and AdamW's moments; a model in which anything has is kept in fp32.

    Returns:
        weights, gradients, moments; sharded also gathered_layer (the largest) and gathered_rest (embeddings, last
        norm and output matrix, whole during a forward); one that is trained in another type than fp32 and not
        sharded also gathered, the copy that a rollout computes with.

    Raises:
        PaddError: as :func:`load_config`.
    """
    model = load_meta_model(name, dtype)
    computed, shares = {parameter.dtype for parameter in model.parameters()}, processes if sharded else 1
    kept_dtype = None if trained == "nothing" else KEPT
    sizes = {"weights": float(_kept_bytes(model.parameters(), shares, kept_dtype))}
    if trained != "nothing":
        chosen = MoEAdapter.attach(model).expert_parameters() if trained == "experts" else model.parameters()
        gradients = float(_kept_bytes(chosen, shares, KEPT))
        sizes |= {"gradients": gradients, "moments": MOMENTS * gradients}
    if sharded:
        layers = [_whole_bytes(layer) for layer in Policy(model).layers]
        sizes["gathered_layer"] = max(layers, default=0)
        sizes["gathered_rest"] = _whole_bytes(model) - sum(layers)
    elif trained != "nothing" and computed != {KEPT}:
        sizes["gathered"] = _whole_bytes(model)
    return {part: round(size / GIB, 2) for part, size in sizes.items()}


def _kept_bytes(parameters: Iterable[nn.Parameter], shares: int, dtype: torch.dtype | None) -> int:
    """Count the bytes of one share of the parameters, in ``dtype`` or their own."""
    return sum(
        ceil(len(p) / shares) * (p.numel() // len(p)) * (dtype or p.dtype).itemsize for p in parameters
    )


def _whole_bytes(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())
