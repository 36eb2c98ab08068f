"""Parameters sharded over the processes of a run by FSDP2 (torch's `fully_shard`).

A decoder layer is whole only while it runs, the rest of the model (embeddings, last norm, output matrix) while the root
module's forward runs. Every forward is therefore a collective: all processes must run the same ones in the same order.
"""

from collections import Counter
from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(
    root: nn.Module, layers: Iterable[nn.Module], device: torch.device, *, keep_root: bool = False
) -> None:
    """Shard a model in place; every process gets its part of the weights of process 0.

    Gradients are summed over the processes, not averaged: the losses are already divided by constants of the whole
    batch.

    Args:
        root: has a method ``run`` beside ``forward``; nothing else may run the model.
        layers: the modules that are gathered one after another.
        device: of the parts. Before, the weights are on the host in process 0 and on the meta device elsewhere.
        keep_root: keep the parameters outside the layers whole after the first forward. For frozen models only: a
            change of weights would have no effect.
    """
    is_main = dist.get_rank() == 0
    source = {name: tensor.detach() for name, tensor in _tensors(root)} if is_main else {}
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for layer in layers:
        for module in _of_other_types(layer):
            fully_shard(module, mesh=mesh)
        fully_shard(layer, mesh=mesh)
    for module in _of_other_types(root):
        fully_shard(module, mesh=mesh)
    fully_shard(root, mesh=mesh, reshard_after_forward=not keep_root)
    register_fsdp_forward_method(root, "run")
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(
                True
            )  # other factors need a reduction that only NCCL has
    if not is_main:
        root.to_empty(device=device)
    for name, tensor in _tensors(root):
        whole = (
            source[name].to(device)
            if is_main
            else torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
        )
        _fill_from_first(tensor, whole)


def _of_other_types(root: nn.Module) -> list[nn.Module]:
    """Return the modules whose own parameters differ in dtype from most of the others: routers kept in fp32.

    They are gathered by themselves, because a group that is gathered together must be of one dtype.
    """
    own = {
        module: parameters
        for module in root.modules()
        if (parameters := [p for p in module.parameters(recurse=False) if not isinstance(p, DTensor)])
    }
    sizes: Counter[torch.dtype] = Counter()
    for parameter in (p for parameters in own.values() for p in parameters):
        sizes[parameter.dtype] += parameter.numel()
    return [
        module for module, found in own.items() if {p.dtype for p in found} != {sizes.most_common(1)[0][0]}
    ]


def _tensors(root: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield parameters and buffers by name; one that two modules share comes once."""
    yield from root.named_parameters()
    yield from root.named_buffers()


@torch.no_grad()
def _fill_from_first(tensor: Tensor, whole: Tensor) -> None:
    if isinstance(tensor, DTensor):
        part = distribute_tensor(whole, tensor.device_mesh, tensor.placements)
        tensor.to_local().copy_(part.to_local())
    else:
        dist.broadcast(whole, src=0)
        tensor.copy_(whole)


def gather(tensor: Tensor) -> Tensor:
    """Return the whole of a sharded tensor, a collective; another tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local_part(whole: Tensor, like: Tensor) -> Tensor:
    """Return this process's part of a tensor that all have, sharded as ``like``; no collective."""
    if not isinstance(like, DTensor):
        return whole
    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def gather_state(model: nn.Module, *, keep: bool) -> dict[str, Tensor]:
    """Gather the state dict to the host tensor by tensor; empty unless ``keep``. A collective.

    Tensors that two modules share are one here too.
    """
    state: dict[str, Tensor] = {}
    first_names: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        first = first_names.setdefault(id(tensor), name)
        whole = gather(tensor.detach()) if first == name else state.get(first)
        if keep and whole is not None:
            state[name] = whole.cpu()
    return state
