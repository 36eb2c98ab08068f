"""Parameters sharded over the processes of a run, or kept in fp32 and computed in bf16, by FSDP2 (`fully_shard`).

A decoder layer is whole only while it runs, the rest of the model (embeddings, last norm, output matrix) while the root
module's forward runs. Every forward is therefore a collective: all processes must run the same ones in the same order.
On a mesh of one process there is nothing to gather, and what runs is a copy in the type of the computation.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor

KEPT = torch.float32  # what is trained: a bf16 weight does not move at a learning rate of 1e-6


@dataclass(frozen=True)
class Precision:
    """What is trained: kept in fp32, gradients and moments too; forwards and backwards compute in ``compute``.

    ``in_fp32`` are modules that are kept and compute in fp32 as well: routers, whose top-K choice bf16 would change.
    """

    compute: torch.dtype
    in_fp32: Collection[nn.Module] = ()

    def of(self, module: nn.Module) -> MixedPrecisionPolicy:
        """Return FSDP2's policy of a module."""
        computed = KEPT if module in self.in_fp32 else self.compute
        return MixedPrecisionPolicy(param_dtype=computed, reduce_dtype=KEPT)


def mesh_of(device: torch.device, *, shards: bool) -> DeviceMesh:
    """Return the mesh that a model is sharded over: all processes, or this one alone."""
    if shards:
        return init_device_mesh(device.type, (dist.get_world_size(),))
    copies = (dist.get_world_size(), 1)
    return init_device_mesh(device.type, copies, mesh_dim_names=("copies", "shards"))["shards"]


def shard(
    root: nn.Module,
    layers: Iterable[nn.Module],
    device: torch.device,
    *,
    mesh: DeviceMesh | None = None,
    precision: Precision | None = None,
    keep_root: bool = False,
) -> None:
    """Shard a model in place; every process gets its part of the weights of process 0.

    Gradients are summed over the processes, not averaged: the losses are already divided by constants of the whole
    batch.

    Args:
        root: has a method ``run`` beside ``forward``; nothing else may run the model.
        layers: the modules that are gathered one after another.
        device: of the parts. Before, the weights are on the host in process 0 and on the meta device elsewhere.
        mesh: as from `mesh_of`; by default all processes.
        precision: of a model that is trained; others are kept and computed in the types that they have.
        keep_root: keep the parameters outside the layers whole after the first forward. For frozen models only: a
            change of weights would have no effect.
    """
    is_main = dist.get_rank() == 0
    source = {name: tensor.detach() for name, tensor in _tensors(root)} if is_main else {}
    mesh = mesh or mesh_of(device, shards=True)
    for unit in (*layers, root):
        apart = _of_other_types(unit) if precision is None else _within(unit, precision.in_fp32)
        if precision is not None:
            kept = {id(p) for module in apart for p in module.parameters()}
            for parameter in _unsharded(unit):
                if parameter.requires_grad or id(parameter) in kept:
                    parameter.data = parameter.data.to(KEPT)
        for module in (*apart, unit):
            policy = MixedPrecisionPolicy() if precision is None else precision.of(module)
            resharded = not (keep_root and unit is root)
            fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=resharded)
    register_fsdp_forward_method(root, "run")
    for module in _fsdp_modules(root):
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # other factors need a reduction that only NCCL has
    if not is_main:
        root.to_empty(device=device)
    for name, tensor in _tensors(root):
        whole = (
            source[name].to(device, tensor.dtype)
            if is_main
            else torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
        )
        _fill_from_first(tensor, whole)


@contextmanager
def kept_gathered(root: nn.Module) -> Iterator[None]:
    """Keep what forwards inside gather, and free it at the end; inside, no weight may change.

    For many forwards in turn, a token's each: on a mesh of one process each would make the copy to compute with anew.
    """
    modules = list(_fsdp_modules(root))
    for module in modules:
        module.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for module in modules:
            module.set_reshard_after_forward(True, recurse=False)
            module.reshard()


def _fsdp_modules(root: nn.Module) -> Iterator[FSDPModule]:
    return (module for module in root.modules() if isinstance(module, FSDPModule))


def _unsharded(root: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the parameters that belong to no FSDP module yet."""
    return (parameter for parameter in root.parameters() if not isinstance(parameter, DTensor))


def _within(root: nn.Module, modules: Collection[nn.Module]) -> list[nn.Module]:
    """Return those of the modules that are inside ``root`` and not sharded yet."""
    return [m for m in root.modules() if m in modules and not isinstance(m, FSDPModule)]


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
    if isinstance(tensor, DTensor) and tensor.device_mesh.size() == dist.get_world_size():
        part = distribute_tensor(whole, tensor.device_mesh, tensor.placements)
        tensor.to_local().copy_(part.to_local())
    else:
        dist.broadcast(whole, src=0)
        (tensor.to_local() if isinstance(tensor, DTensor) else tensor).copy_(whole)


def is_divided(tensor: Tensor) -> bool:
    """Return whether each process has a part of its own of a tensor, not the whole."""
    return isinstance(tensor, DTensor) and tensor.device_mesh.size() > 1


def local(tensor: Tensor) -> Tensor:
    """Return what this process has of a tensor."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def start_of(tensor: Tensor) -> int:
    """Return where this process's part starts in the whole tensor, in numbers; FSDP2 divides rows as `torch.chunk`."""
    if not isinstance(tensor, DTensor) or not is_divided(tensor):
        return 0
    rows = -(-tensor.shape[0] // tensor.device_mesh.size())
    first = min(tensor.device_mesh.get_local_rank() * rows, tensor.shape[0])
    return first * (tensor.numel() // tensor.shape[0])


@torch.no_grad()
def fill(parameter: nn.Parameter, whole: Tensor) -> None:
    """Copy a tensor that all processes have into a parameter, or into this process's part of it; no collective."""
    part = local_part(whole, like=parameter)
    if isinstance(parameter, DTensor) and isinstance(part, DTensor):
        parameter.to_local().copy_(part.to_local())
    else:
        parameter.copy_(part)


def gather(tensor: Tensor) -> Tensor:
    """Return the whole of a sharded tensor, a collective; another tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local_part(whole: Tensor, like: Tensor) -> Tensor:
    """Return this process's part of a tensor that all have, sharded as ``like``; no collective."""
    if not isinstance(like, DTensor):
        return whole
    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def gather_state(
    model: nn.Module, *, keep: bool, dtypes: Mapping[str, torch.dtype] | None = None
) -> dict[str, Tensor]:
    """Gather the state dict to the host tensor by tensor; empty unless ``keep``. A collective.

    Tensors that two modules share are one here too. ``dtypes`` are the types to return them in, by default their own.
    """
    state: dict[str, Tensor] = {}
    first_names: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        first = first_names.setdefault(id(tensor), name)
        whole = gather(tensor.detach()) if first == name else state.get(first)
        if keep and whole is not None:
            state[name] = whole.to("cpu", (dtypes or {}).get(name, whole.dtype))
    return state
