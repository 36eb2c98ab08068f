"""Memory of an evaluation, before it starts."""

from padd_stages.evaluate.benchmark import Protocol
from padd_stages.evaluate.options import EvaluateInputs, EvaluateOptions
from padd_stages.lib.planning.budget import Budget, PlannedModel, batch_of
from padd_stages.lib.runtime.launcher import Launch

PROMPT = 1024  # chosen: tokens of a long problem with its system turn


def budget(inputs: EvaluateInputs, options: EvaluateOptions, launch: Launch) -> Budget:
    """Estimate what each process needs, if all responses have the greatest length; nothing to grade alone.

    Raises:
        PaddError: as `load_config`.
    """
    if inputs.model is None:
        return Budget({}, {})
    model = PlannedModel(inputs.model, options.dtype, launch, sharded=launch.sharded)
    if options.engine == "vllm":  # which has its own memory
        return Budget({"model": model.shape.counts()}, {})
    new_tokens = options.max_new_tokens or Protocol().max_new_tokens
    rows = batch_of(options.generation_batch_tokens, PROMPT + new_tokens).rows
    phases = {"responses": model.sampling(rows, PROMPT, new_tokens)}
    return Budget({"model": model.shape.counts()}, model.held("model"), phases)
