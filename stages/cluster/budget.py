"""Memory of a clustering, before it starts."""

from padd_stages.cluster.options import ClusterInputs, ClusterOptions
from padd_stages.lib.options.shared import SHARD
from padd_stages.lib.planning.budget import Budget, PlannedModel, batch_of
from padd_stages.lib.planning.gpus import GIB
from padd_stages.lib.runtime.launcher import Launch


def budget(inputs: ClusterInputs, options: ClusterOptions, launch: Launch) -> Budget:
    """Estimate what each process needs on its device; clustering of weights alone reads them from their files.

    Raises:
        PaddError: as `load_config`.
    """
    shards = options.teacher_device == SHARD or (options.teacher_device is None and launch.sharded)
    models = {"teacher": PlannedModel(inputs.teacher, options.dtype, launch, sharded=shards)}
    if inputs.split is None:
        return Budget({"teacher": models["teacher"].shape.counts()}, {})
    if inputs.student is not None:
        models["student"] = PlannedModel(inputs.student, options.dtype, launch, sharded=launch.sharded)
    batch = batch_of(options.batch_tokens, options.max_length)
    held = {name: size for role, model in models.items() for name, size in model.held(role).items()}
    pass_ = {
        "gathered weights": max(model.gathered(many_forwards=False) for model in models.values()),
        "temporaries": max(model.forward(batch) for model in models.values()),
    }
    host = {}
    if "student" in models:
        shape = models["student"].shape
        width, targets = shape.head[1], models["teacher"].shape.head[1]
        host["sums of the ridge maps"] = (
            launch.processes * shape.moe_layers * 8 * width * (width + targets) / GIB
        )
        inputs_of_routers = shape.head[1] * shape.number_bytes + 2 * 4 * shape.experts
        pass_["records of the routers"] = shape.moe_layers * batch.tokens * inputs_of_routers / GIB
    return Budget(
        {role: model.shape.counts() for role, model in models.items()}, held, {"texts": pass_}, host
    )
