"""Inputs and options of `padd eval` (docs/METHOD.md, section 6)."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from padd_stages.lib.options.base import Artifacts, Inputs, Method, Options, Run
from padd_stages.lib.options.shared import (
    AttnImplementation,
    Device,
    Dtype,
    EngineName,
    EngineTimeout,
    EngineUrl,
    ExpertsImplementation,
    GradingLimit,
    PromptTemplate,
    Thinking,
    Workers,
)


class EvaluateInputs(Inputs):
    """Inputs of eval: a model and problems, or existing responses."""

    model: Annotated[
        str | None, Artifacts("Model to evaluate: a padd student, a folder, hub id or short name.")
    ] = None
    benchmark: Annotated[
        list[str],
        Artifacts(
            "aime24, amc23, gsm8k, math500, minerva-math, olympiadbench, or a YAML file that describes another."
        ),
    ] = Field(default_factory=list)
    benchmark_dir: Annotated[
        Path | None,
        Artifacts("Folder of the benchmarks' files, instead of the hub; else the one that PADD_DATA names."),
    ] = None
    problems: Annotated[
        str | None,
        Artifacts(
            "A split artifact (its D_D is used), or a file or hub data set (owner/name[/config][:split]) of "
            "problems with their answers."
        ),
    ] = None
    responses: Annotated[
        Path | None,
        Artifacts(
            "Responses of another engine, to be graded without a model: rows with id, answer and response; an id may "
            "stand several times."
        ),
    ] = None

    def paths(self) -> list[Path]:
        """Return the paths of all inputs; a folder that only has a benchmark's name is none."""
        return [path for path in super().paths() if str(path) not in self.benchmark or path.is_file()]


class EvaluateOptions(Options):
    """Options of an evaluation; None takes the value of each benchmark, which for files is `Protocol()`."""

    greedy: Annotated[
        bool | None, Method("One greedy response a problem; by default all benchmarks but AIME24 have it.")
    ] = None
    samples: Annotated[
        int | None, Method("Sampled responses a problem; by default the benchmark's: AIME24 32, others 0.")
    ] = Field(None, ge=0)
    temperature: Annotated[
        float | None, Method("Temperature of the sampled responses; by default the benchmark's: 0.6.")
    ] = Field(None, gt=0)
    top_p: Annotated[
        float | None, Method("Nucleus of the sampled responses; by default the benchmark's: 0.95.")
    ] = Field(None, gt=0, le=1)
    engine: EngineName = "transformers"
    max_new_tokens: Annotated[
        int | None,
        Method(
            "Longest response, in tokens; a longer one is truncated and scores 0; by default the benchmark's: 3000."
        ),
    ] = Field(None, ge=1)
    prompt_template: Annotated[
        PromptTemplate,
        Method(
            "The model's own chat template, or one of Dr. GRPO's, which bring their own system turn or none."
        ),
    ] = "chat"
    system: Annotated[
        str | None,
        Method(
            "System turn of the chat template; empty leaves it out; by default asks for steps and a \\boxed{}."
        ),
    ] = None
    thinking: Thinking = False
    limit: Annotated[int | None, Method("Only the first problems of each benchmark.")] = Field(None, ge=1)
    extract: Annotated[
        Literal["boxed", "any"] | None,
        Method("Where the answer is looked for: the last \\boxed{} (the default), or anywhere."),
    ] = None
    problem_column: Annotated[str, Method("Column of the problem, for --problems.")] = "problem"
    answer_column: Annotated[str, Method("Column of the answer, for --problems.")] = "answer"
    dtype: Dtype = "auto"
    generation_batch_tokens: Annotated[int, Run("Padded tokens in one generation batch.")] = Field(
        65536, ge=1
    )
    attn_implementation: AttnImplementation = None
    experts_implementation: ExpertsImplementation = None
    engine_url: EngineUrl = None
    engine_timeout: EngineTimeout = Field(3600.0, gt=0)
    device: Device = "auto"
    workers: Workers = Field(2, ge=1)
    grading_limit: GradingLimit = Field(5.0, gt=0)
