"""Memory of a routing analysis, before it starts."""

from padd_stages.analyze_experts.options import AnalyzeInputs, AnalyzeOptions
from padd_stages.lib.planning.budget import Budget, PlannedModel, batch_of
from padd_stages.lib.planning.gpus import GIB
from padd_stages.lib.runtime.launcher import Launch


def budget(inputs: AnalyzeInputs, options: AnalyzeOptions, launch: Launch) -> Budget:
    """Estimate what each process needs on its device; the models come one after another.

    Raises:
        PaddError: as `load_config`.
    """
    student = PlannedModel(inputs.student, options.dtype, launch, sharded=launch.sharded)
    shape, batch = student.shape, batch_of(options.batch_tokens, options.max_tokens)
    counts, phases = {"student": shape.counts()}, {}
    for role, model in {"student": student, "teacher": _teacher(inputs, options, launch)}.items():
        if model is not None:
            counts[role] = model.shape.counts()
            phases[role] = model.held(role) | {
                "gathered weights": model.gathered(many_forwards=False),
                "temporaries": model.forward(batch),
            }
    phases["student"]["records of the routers"] = (
        2 * 4 * shape.moe_layers * batch.tokens * shape.experts / GIB
    )
    return Budget(counts, {}, phases)


def _teacher(inputs: AnalyzeInputs, options: AnalyzeOptions, launch: Launch) -> PlannedModel | None:
    if inputs.teacher is None:
        return None
    return PlannedModel(inputs.teacher, options.dtype, launch, sharded=launch.sharded)
