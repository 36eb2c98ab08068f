"""Inputs and options of `padd eval` (docs/METHOD.md, section 6)."""

from typing import Annotated, Literal

from pydantic import Field

from padd_stages.options.base import Artifacts, Inputs, Method, Options, Run
from padd_stages.options.shared import (
    DEFAULT_SYSTEM,
    Device,
    Dtype,
    GradingLimit,
    MaxNewTokens,
    SystemPrompt,
    Thinking,
    Workers,
)


class EvaluateInputs(Inputs):
    """What eval reads."""

    model: Annotated[str, Artifacts("Model to evaluate: a padd student, a folder, hub id or short name.")]
    problems: Annotated[
        str, Artifacts("A split artifact (its D_D is used), or a file of problems with their answers.")
    ]


class EvaluateOptions(Options):
    """Options of an evaluation: one greedy response a problem, and ``samples`` sampled ones."""

    greedy: Annotated[bool, Method("One greedy response a problem (Pass@1).")] = True
    samples: Annotated[int, Method("Sampled responses a problem, for avg@k.")] = Field(0, ge=0)
    temperature: Annotated[float, Method("Temperature of the sampled responses.")] = Field(0.6, gt=0)
    top_p: Annotated[float, Method("Nucleus of the sampled responses.")] = Field(0.95, gt=0, le=1)
    max_new_tokens: MaxNewTokens = Field(3000, ge=1)
    system: SystemPrompt = DEFAULT_SYSTEM
    thinking: Thinking = False
    limit: Annotated[int | None, Method("Only the first problems.")] = Field(None, ge=1)
    extract: Annotated[
        Literal["boxed", "any"], Method("Where the answer is looked for: the last \\boxed{}, or anywhere.")
    ] = "boxed"
    problem_column: Annotated[str, Method("Column of the problem, for a file.")] = "problem"
    answer_column: Annotated[str, Method("Column of the answer, for a file.")] = "answer"
    dtype: Dtype = "auto"
    generation_batch_tokens: Annotated[int, Run("Padded tokens in one generation batch.")] = Field(
        65536, ge=1
    )
    device: Device = "auto"
    workers: Workers = Field(2, ge=1)
    grading_limit: GradingLimit = Field(5.0, gt=0)
