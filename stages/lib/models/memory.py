"""Memory of models on the device of each process of a run, from their configurations alone."""

from math import ceil

import torch
from torch import nn

from padd_stages.lib.models.loading import DtypeName, load_meta_model
from padd_stages.lib.models.policy import Policy
from padd_stages.lib.runtime.sharding import KEPT

GIB = 1 << 30
MOMENTS = 2  # of AdamW, in the kept weights' type


def memory_per_process(
    name: str, dtype: DtypeName, processes: int, *, sharded: bool, trained: bool
) -> dict[str, float]:
    """Estimate the GiB on each device, without activations, key-value caches and the buffers of collectives.

    Args:
        dtype: that the model computes in.
        sharded: each process keeps 1/processes of every tensor's rows, rounded up (FSDP2), and gathers one decoder
            layer after another; GPUs gather the next one meanwhile.
        trained: kept in fp32, with gradients and AdamW's moments.

    Returns:
        weights, gradients, moments; sharded also gathered_layer (the largest) and gathered_rest (embeddings, last
        norm and output matrix, whole during a forward); one that is trained in another type than fp32 and not
        sharded also gathered, the copy that a rollout computes with.

    Raises:
        PaddError: as :func:`load_config`.
    """
    model = load_meta_model(name, dtype)
    computed = {parameter.dtype for parameter in model.parameters()}
    parts = [
        _part_bytes(parameter, processes if sharded else 1, KEPT if trained else parameter.dtype)
        for parameter in model.parameters()
    ]
    kept = float(sum(parts))
    sizes = {"weights": kept}
    if trained:
        sizes |= {"gradients": kept, "moments": MOMENTS * kept}
    if sharded:
        layers = [_whole_bytes(layer) for layer in Policy(model).layers]
        sizes["gathered_layer"] = max(layers, default=0)
        sizes["gathered_rest"] = _whole_bytes(model) - sum(layers)
    elif trained and computed != {KEPT}:
        sizes["gathered"] = _whole_bytes(model)
    return {part: round(size / GIB, 2) for part, size in sizes.items()}


def _part_bytes(parameter: nn.Parameter, processes: int, dtype: torch.dtype) -> int:
    rows = parameter.shape[0]
    return ceil(rows / processes) * (parameter.numel() // rows) * dtype.itemsize


def _whole_bytes(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())
