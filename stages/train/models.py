"""The models of a training run: loaded, put on their devices or sharded, ready to compute."""

from dataclasses import dataclass

from padd_stages.lib.models.kernels import Kernels
from padd_stages.lib.models.loading import LanguageModel
from padd_stages.lib.models.policy import Policy
from padd_stages.lib.models.teacher import Teacher
from padd_stages.lib.models.trainable import Lora, Trained, choose_trained
from padd_stages.lib.models.trained import checkpoint_activations, load_frozen, load_teacher, load_trained
from padd_stages.lib.runtime.processes import Processes
from padd_stages.train.options import TrainInputs, TrainOptions


@dataclass(frozen=True)
class Models:
    """The student and the models it is compared with; all compute in one type."""

    student: LanguageModel
    policy: Policy
    teacher: Teacher | None
    reference: Policy | None


def trained_of(options: TrainOptions) -> Trained:
    """Return what of the student is trained."""
    if options.trainable != "lora":
        return options.trainable
    return Lora(options.lora_r, options.lora_alpha, options.lora_target)


def load_models(inputs: TrainInputs, options: TrainOptions, processes: Processes) -> Models:
    """Load the models that the options need.

    Raises:
        UsageError: there is no such device as --teacher-device says.
        PaddError: as `load_model`, and for a family that cannot be trained or sharded.
    """
    kernels = Kernels.of(options)
    student, policy = load_trained(
        inputs.student,
        processes,
        options.dtype,
        choose=lambda loaded: choose_trained(loaded.model, loaded.adapter, trained_of(options)),
        bias_mode=options.bias_mode,
        kernels=kernels,
    )
    if options.gradient_checkpointing:
        checkpoint_activations(student.model)
    policy.verify()
    reference = teacher = None
    if options.beta_ref > 0:
        _, reference = load_frozen(
            inputs.student,
            processes,
            options.dtype,
            shards=processes.shards,
            bias_mode=options.bias_mode,
            kernels=kernels,
        )
    if options.kd_weight > 0 and inputs.teacher is not None:
        teacher = load_teacher(inputs.teacher, student, processes, options)
    return Models(student, policy, teacher, reference)
