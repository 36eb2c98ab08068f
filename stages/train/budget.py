"""Memory and time of a training run, before it starts: what is held, and what each part of a step adds."""

from dataclasses import dataclass
from math import ceil

from padd_stages.lib.options.shared import SHARD
from padd_stages.lib.planning.budget import Budget, PlannedModel, batch_of
from padd_stages.lib.planning.gpus import GIB, Work
from padd_stages.lib.planning.simulation import Batch
from padd_stages.lib.runtime.launcher import Launch
from padd_stages.train.models import trained_of
from padd_stages.train.options import TrainInputs, TrainOptions

TRACE_BYTES = {"fp32": 4, "fp16": 2}
# Products of an update against a forward's, without and with checkpointed layers
BACKWARD, RECOMPUTED = 3.0, 4.0


@dataclass(frozen=True)
class _Batches:
    """What one process runs in a step: its responses, the length of the longest, and the batches they are cut into."""

    responses: int
    length: int
    updated: Batch
    sampled: Batch

    @classmethod
    def of(cls, options: TrainOptions, launch: Launch) -> "_Batches":
        length = options.max_prompt_length + options.max_completion_length
        responses = ceil(options.prompts_per_step / launch.processes) * options.num_generations
        return cls(
            responses,
            length,
            batch_of(options.micro_batch_tokens, length, responses),
            batch_of(options.generation_batch_tokens, length, responses),
        )


def budget(inputs: TrainInputs, options: TrainOptions, launch: Launch) -> Budget:
    """Estimate what each process needs, if all prompts and responses have the greatest length.

    Raises:
        PaddError: as `load_config`.
    """
    models, batches = _models(inputs, options, launch), _Batches.of(options, launch)
    student, shape = models["student"], models["student"].shape
    numbers = batches.responses * options.max_completion_length * shape.moe_layers * shape.experts
    return Budget(
        {role: model.shape.counts() for role, model in models.items() if role != "reference"},
        {name: size for role, model in models.items() for name, size in model.held(role).items()},
        _phases(models, batches, options),
        host={
            "routing of the old policy": launch.processes * TRACE_BYTES[options.trace_dtype] * numbers / GIB,
            "the student, while it is loaded and written": shape.computed_bytes / GIB,
        },
        disk={
            "checkpoints": (options.keep_checkpoints + 1) * student.checkpoint()
            if options.checkpoint_every
            else 0.0,
            # a new student is written before the engine lets go of the last
            **(
                {"weights for the engine": 2 * shape.computed_bytes / GIB} if options.engine == "vllm" else {}
            ),
        },
        work=_work(models, batches, options),
        steps=options.steps,
    )


def _phases(
    models: dict[str, PlannedModel], batches: _Batches, options: TrainOptions
) -> dict[str, dict[str, float]]:
    student, teacher = models["student"], models.get("teacher")
    states = {}
    if teacher is not None:
        numbers = batches.responses * options.max_completion_length * teacher.shape.head[1]
        states = {"teacher's hidden states": numbers * teacher.shape.number_bytes / GIB}
    update = student.update(batches.updated, teacher=teacher, checkpointed=options.gradient_checkpointing)
    sampling = student.sampling(
        batches.sampled.rows, options.max_prompt_length, options.max_completion_length
    )
    return {
        "rollout": sampling if options.engine == "transformers" else {},  # an engine has its own memory
        "old policy and teacher": states
        | {
            "gathered weights": max(model.gathered(many_forwards=False) for model in models.values()),
            "temporaries": max(model.forward(batches.updated) for model in models.values()),
        },
        "update": states
        | {
            "gradients": student.gradients(),
            "gathered weights": student.gathered(many_forwards=False),
            "activations and temporaries": update,
        },
    }


def _work(models: dict[str, PlannedModel], batches: _Batches, options: TrainOptions) -> dict[str, Work]:
    student, responses, length = models["student"], batches.responses, batches.length
    tokens, micro_batches = responses * length, ceil(responses / batches.updated.rows)
    sampled, updates = ceil(responses / batches.sampled.rows), options.num_iterations
    products = RECOMPUTED if options.gradient_checkpointing else BACKWARD
    frozen = {
        name: model.passes(tokens, length, micro_batches)
        for name, model in models.items()
        if name != "student"
    }
    rollout = student.decoding(
        batches.sampled.rows, sampled, options.max_prompt_length, options.max_completion_length
    )
    return {
        **({"rollout": rollout} if options.engine == "transformers" else {}),
        "old policy": student.passes(tokens, length, micro_batches),
        **frozen,
        "updates": student.passes(updates * tokens, length, updates * micro_batches, products=products),
    }


def _models(inputs: TrainInputs, options: TrainOptions, launch: Launch) -> dict[str, PlannedModel]:
    sharded, dtype = launch.sharded, options.dtype
    models = {
        "student": PlannedModel(
            inputs.student,
            dtype,
            launch,
            trained=trained_of(options),
            sharded=sharded,
            optimizer=options.optimizer,
        )
    }
    if options.kd_weight > 0 and inputs.teacher is not None:
        shards = options.teacher_device == SHARD
        models["teacher"] = PlannedModel(inputs.teacher, dtype, launch, sharded=shards, keep_root=True)
    if options.beta_ref > 0:
        models["reference"] = PlannedModel(inputs.student, dtype, launch, sharded=sharded)
    return models
