"""Models as a run needs them: trained ones kept in fp32, sharded ones divided among the processes."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import nn

from padd_artifacts.errors import PaddError, UsageError
from padd_stages.lib.compat.transformers import decoder_layers
from padd_stages.lib.models.context import Context
from padd_stages.lib.models.kernels import KernelOptions, Kernels
from padd_stages.lib.models.loading import DtypeName, LanguageModel, load_config, load_model
from padd_stages.lib.models.policy import Policy
from padd_stages.lib.models.teacher import Teacher
from padd_stages.lib.models.trainable import with_factors
from padd_stages.lib.options.shared import SHARD
from padd_stages.lib.runtime.devices import pick_device
from padd_stages.lib.runtime.launcher import process_count
from padd_stages.lib.runtime.processes import Processes
from padd_stages.lib.runtime.sharding import KEPT, Precision, kept_gathered, mesh_of, shard


def compute_dtype(name: str, dtype: DtypeName) -> torch.dtype:
    """Return the type that a model which is trained computes in; ``auto`` is the checkpoint's.

    Raises:
        UsageError: fp16, whose gradients would be lost.
        PaddError: as `load_config`.
    """
    found = load_config(name)[1].dtype if dtype == "auto" else getattr(torch, dtype)
    if isinstance(found, str):
        found = getattr(torch, found)
    if found == torch.float16:
        raise UsageError(
            f"{name} is in float16, in which small gradients become 0 without loss scaling, which padd does not do; "
            "take --dtype bfloat16."
        )
    return found or KEPT


def is_mixed(name: str, dtype: DtypeName) -> bool:
    """Return whether a model that is trained is kept in another type, fp32, than it computes in.

    Raises:
        UsageError, PaddError: as `compute_dtype`.
    """
    return compute_dtype(name, dtype) not in (KEPT, torch.float64)


def load_trained(
    name: str,
    processes: Processes,
    dtype: DtypeName,
    *,
    choose: Callable[[LanguageModel], Any] = lambda loaded: loaded.model.requires_grad_(True),
    **options: Any,
) -> tuple[LanguageModel, Policy]:
    """Load a model that is trained: what is learnt is kept in fp32 and computed in ``dtype``, routers in fp32.

    It is sharded if ``processes`` are.

    Args:
        choose: sets `requires_grad` of the parameters, before they are sharded.
        options: of `load_model`.

    Raises:
        PaddError: as `load_model`, and for a family that cannot be sharded.
    """
    loaded = load_model(name, dtype=dtype, device=unsharded_device(processes, processes.fsdp), **options)
    if not processes.fsdp and (
        narrow := {p.dtype for p in loaded.model.parameters()} - {KEPT, torch.float64}
    ):
        raise PaddError(
            f"the weights of {name} are in {', '.join(map(str, narrow))} and its config.json does not say so, so they "
            "would be trained without a copy in fp32 and hardly move; take --dtype bfloat16 or float32."
        )
    choose(loaded)
    policy = Policy(loaded.model)
    if processes.fsdp:
        layers = () if loaded.adapter is None else loaded.adapter.layers
        routers = frozenset(with_factors(loaded.model, layer.router) for layer in layers)
        shard_policy(policy, processes, precision=Precision(compute_dtype(name, dtype), routers))
    return loaded, policy


def load_frozen(
    name: str,
    processes: Processes,
    dtype: DtypeName,
    *,
    shards: bool,
    keep_root: bool = False,
    device: str | None = None,
    **options: Any,
) -> tuple[LanguageModel, Policy]:
    """Load a model that is not trained, in ``dtype``.

    Args:
        shards, keep_root: divide it among the processes; ``keep_root`` as for `shard`.
        device: of a model that is not sharded; by default the process's.
        options: of `load_model`.

    Raises:
        PaddError: as `load_trained`.
    """
    loaded = load_model(name, dtype=dtype, device=device or unsharded_device(processes, shards), **options)
    policy = Policy(loaded.model).eval().requires_grad_(False)
    if shards:
        shard_policy(policy, processes, keep_root=keep_root)
    return loaded, policy


class TeacherOptions(KernelOptions, Protocol):
    """Options of a stage that distils from a teacher; ``teacher_device``: a torch device, SHARD, or the student's."""

    @property
    def dtype(self) -> DtypeName: ...
    @property
    def teacher_device(self) -> str | None: ...
    @property
    def teacher_max_positions(self) -> int | None: ...
    @property
    def teacher_rope_theta(self) -> float | None: ...


def load_teacher(name: str, student: LanguageModel, processes: Processes, options: TeacherOptions) -> Teacher:
    """Load the frozen teacher of a student.

    Raises:
        UsageError: there is no such device as --teacher-device says.
        PaddError: as `load_frozen` and `Context.apply`, and for vocabularies that share too little.
    """
    device, shards = options.teacher_device, options.teacher_device == SHARD
    model, policy = load_frozen(
        name,
        processes,
        options.dtype,
        shards=shards,
        keep_root=True,
        device=None if shards or device is None else pick_device(device, "--teacher-device"),
        moe=False,
        context=Context(options.teacher_max_positions, options.teacher_rope_theta),
        kernels=Kernels.of(options),
    )
    return Teacher(model, student, policy)


def check_teacher_device(name: str | None) -> None:
    """Refuse to spread a teacher over one process.

    Raises:
        UsageError: --teacher-device says so.
    """
    if name == SHARD and process_count() == 1:
        raise UsageError(
            "--teacher-device shard spreads the teacher over the processes of the run and there is only one; start "
            "several with torchrun or accelerate launch, or name a device."
        )


def checkpoint_activations(model: Any) -> None:
    """Turn activation checkpointing on, by transformers' name since 5.23 or the one before."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()


def use_checkpoints(model: nn.Module) -> None:
    """Put the layers in training mode: transformers checkpoints no others, and sampling needs evaluation mode.

    The flag is set on the layers alone: what is inside them, dropout and router jitter, must stay as the old policy's.
    """
    for layer in decoder_layers(model):
        layer.training = True


def many_forwards(policy: Policy, processes: Processes) -> AbstractContextManager[None]:
    """Keep the copy that a model kept in fp32 computes with; of a sharded model it would be too large."""
    mixed = processes.fsdp and not processes.shards
    return kept_gathered(policy) if mixed else nullcontext()


def unsharded_device(processes: Processes, shards: bool) -> str:
    """Return the device to load to; before sharding the model is on the host of one process alone."""
    if not shards:
        return str(processes.device)
    return "cpu" if processes.is_main else "meta"


def shard_policy(
    policy: Policy, processes: Processes, *, precision: Precision | None = None, keep_root: bool = False
) -> None:
    """Shard a policy over the processes, or keep it whole in each in another type than it computes in.

    Raises:
        PaddError: the family does not say what its decoder layers are.
    """
    if not policy.layers:
        raise PaddError(
            f"{type(policy.model).__name__} does not say which of its modules are decoder layers, so it can neither be "
            "sharded layer by layer nor be trained in bf16; take --dtype float32 without sharding, or a model of "
            "another family."
        )
    mesh = mesh_of(processes.device, shards=precision is None or processes.shards)
    shard(policy, policy.layers, processes.device, mesh=mesh, precision=precision, keep_root=keep_root)
