"""The models of a training run: loaded, put on their devices or sharded, ready to compute."""

from dataclasses import dataclass
from typing import Any, cast

from accelerate import Accelerator

from padd_artifacts.errors import PaddError
from padd_stages.lib.models.loading import LanguageModel, load_model
from padd_stages.lib.models.memory import memory_per_process
from padd_stages.lib.models.policy import Policy
from padd_stages.lib.models.teacher import Teacher
from padd_stages.lib.runtime.devices import pick_device
from padd_stages.lib.runtime.launcher import process_count, sharding_requested
from padd_stages.lib.runtime.processes import Processes
from padd_stages.lib.runtime.sharding import shard
from padd_stages.train.options import SHARD, TrainInputs, TrainOptions


@dataclass(frozen=True)
class Models:
    """The student and the models it is compared with; ``policy`` and ``reference`` run in the run's precision."""

    student: LanguageModel
    policy: Policy
    teacher: Teacher | None
    reference: Policy | None


def load_models(
    inputs: TrainInputs, options: TrainOptions, accelerator: Accelerator, processes: Processes
) -> Models:
    """Load the models that the options need.

    Raises:
        UsageError: there is no such device as --teacher-device says.
        PaddError: as `load_model`, and for a family that cannot be trained or sharded.
    """
    teacher_device = _teacher_device(options, processes)
    student, policy = _load_student(inputs, options, processes)
    if options.gradient_checkpointing:
        _checkpoint_activations(student.model)
    policy.verify()
    reference = teacher = None
    if options.beta_ref > 0:
        reference = _load_student(inputs, options, processes, frozen=True)[1]
    if options.kd_weight > 0 and inputs.teacher is not None:
        is_sharded = teacher_device == SHARD
        device = _unsharded_device(processes) if is_sharded else teacher_device
        model = load_model(inputs.teacher, dtype=options.dtype, device=device, moe=False)
        frozen = Policy(model.model).eval().requires_grad_(False)
        if is_sharded:
            _shard(frozen, processes, keep_root=True)
        teacher = Teacher(model, student, frozen)
    # in evaluation mode accelerate adds its autocast, and no wrapper that averages gradients: they are summed here
    prepared = [
        None if module is None else cast(Policy, accelerator.prepare_model(module, evaluation_mode=True))
        for module in (policy, reference)
    ]
    return Models(student, cast(Policy, prepared[0]), teacher, prepared[1])


def memory_of_run(inputs: TrainInputs, options: TrainOptions) -> dict[str, dict[str, float]]:
    """Return the GiB of each model on each device, for the launcher's number of processes: `memory_per_process`."""
    processes = process_count()
    shards, teacher_shards = sharding_requested() and processes > 1, options.teacher_device == SHARD
    sizes = {
        "student": memory_per_process(inputs.student, options.dtype, processes, sharded=shards, trained=True)
    }
    if options.beta_ref > 0:
        sizes["reference"] = memory_per_process(
            inputs.student, options.dtype, processes, sharded=shards, trained=False
        )
    if options.kd_weight > 0 and inputs.teacher is not None:
        sizes["teacher"] = memory_per_process(
            inputs.teacher, options.dtype, processes, sharded=teacher_shards, trained=False
        )
    return sizes


def _teacher_device(options: TrainOptions, processes: Processes) -> str:
    """Return the teacher's device: a torch device or SHARD."""
    if options.teacher_device is None:
        return str(processes.device)
    if options.teacher_device == SHARD:
        return SHARD
    return pick_device(options.teacher_device, "--teacher-device")


def _load_student(
    inputs: TrainInputs, options: TrainOptions, processes: Processes, *, frozen: bool = False
) -> tuple[LanguageModel, Policy]:
    device = _unsharded_device(processes) if processes.shards else str(processes.device)
    student = load_model(inputs.student, dtype=options.dtype, device=device, bias_mode=options.bias_mode)
    policy = Policy(student.model).requires_grad_(not frozen)
    if processes.shards:
        _shard(policy, processes)
    return student, policy


def _unsharded_device(processes: Processes) -> str:
    """Return the device before sharding: the model is on the host of one process alone."""
    return "cpu" if processes.is_main else "meta"


def _shard(policy: Policy, processes: Processes, *, keep_root: bool = False) -> None:
    if not policy.layers:
        raise PaddError(
            f"{type(policy.model).__name__} does not say which of its modules are decoder layers, so it cannot be "
            "sharded layer by layer; train without sharding, or take a model of another family."
        )
    shard(policy, policy.layers, processes.device, keep_root=keep_root)


def _checkpoint_activations(model: Any) -> None:
    """Turn activation checkpointing on, by transformers' name since 5.23 or the one before."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()
