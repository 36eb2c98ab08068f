"""Memory and time of a warmup, before it starts."""

from math import ceil

from padd_stages.lib.options.shared import SHARD
from padd_stages.lib.planning.budget import Budget, PlannedModel, batch_of
from padd_stages.lib.planning.gpus import GIB
from padd_stages.lib.runtime.launcher import Launch
from padd_stages.warmup.options import WarmupInputs, WarmupOptions


def budget(inputs: WarmupInputs, options: WarmupOptions, launch: Launch) -> Budget:
    """Estimate what each process needs, if all rows have the greatest length.

    Raises:
        PaddError: as `load_config`.
    """
    student = PlannedModel(
        inputs.student,
        options.dtype,
        launch,
        trained=options.trainable,
        sharded=launch.sharded,
        optimizer=options.optimizer,
    )
    shards = options.teacher_device == SHARD
    teacher = PlannedModel(inputs.teacher, options.dtype, launch, sharded=shards, keep_root=True)
    prompt = max(options.max_length - options.max_new_tokens, 1)
    rows = ceil(options.batch_size / launch.processes)
    batch = batch_of(options.micro_batch_tokens, options.max_length, rows)
    sampled = batch_of(options.generation_batch_tokens, options.max_length)
    solutions = options.warmup_text == "teacher" and options.engine == "transformers"
    update = student.update(
        batch,
        teacher=teacher if options.alpha > 0 else None,
        checkpointed=options.gradient_checkpointing,
    )
    states = batch.tokens * teacher.shape.head[1] * teacher.shape.number_bytes / GIB
    phases = {
        "greedy answers": student.sampling(sampled.rows, prompt, options.max_new_tokens),
        "update": {
            "gradients": student.gradients(),
            "gathered weights": student.gathered(many_forwards=False),
            "activations and temporaries": max(update, teacher.forward(batch)),
            "teacher's hidden states": states,
        },
    }
    if solutions:
        phases["teacher's solutions"] = teacher.sampling(sampled.rows, prompt, options.max_new_tokens)
    shape, micro_batches = student.shape, ceil(rows / batch.rows)
    tokens = rows * options.max_length
    products = 4.0 if options.gradient_checkpointing else 3.0
    return Budget(
        {"student": shape.counts(), "teacher": teacher.shape.counts()},
        student.held("student") | teacher.held("teacher"),
        phases,
        host={"the student, while it is loaded and written": shape.computed_bytes / GIB},
        disk={"checkpoints": 2 * student.checkpoint() if options.checkpoint_every else 0.0},
        work={
            "teacher": teacher.passes(tokens, options.max_length, micro_batches),
            "update": student.passes(tokens, options.max_length, micro_batches, products=products),
        },
        steps=options.steps,
    )
