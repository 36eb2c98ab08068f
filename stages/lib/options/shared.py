"""Options that several stages have in common: one wording and one default each."""

from typing import Annotated, Literal, Protocol

from padd_stages.lib.options.base import Method, Run, Training

# docs/METHOD.md, section 6
DEFAULT_SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."

PromptTemplate = Literal["chat", "qwen-math", "r1", "none"]
SystemPrompt = Annotated[str, Method("System turn of the chat template; empty leaves it out.")]
Thinking = Annotated[bool, Method("Let templates that know it (Qwen3) open a thinking section.")]
MaxNewTokens = Annotated[int, Method("Longest response, in tokens; a longer one is truncated and scores 0.")]
Device = Annotated[str, Run("torch device, e.g. cpu, cuda, cuda:1; auto takes a GPU if there is one.")]
SHARD = "shard"
TeacherDevice = Annotated[
    str | None,
    Run("Device of the frozen teacher: cuda:1, ... or shard (over the processes); else the student's."),
]
TeacherMaxPositions = Annotated[
    int | None,
    Method(
        "Positions that the teacher reads, instead of its configuration's; response tokens beyond are not compared."
    ),
]
TeacherRopeTheta = Annotated[
    float | None,
    Method(
        "Base of the teacher's rotary embeddings, instead of its configuration's: 40000 with 16384 positions is what "
        "users of Qwen2.5-Math set."
    ),
]
GradientCheckpointing = Annotated[bool, Training("Recompute activations to save memory.")]
OptimizerName = Literal["adamw", "adamw-8bit"]
AttnImplementation = Annotated[
    str | None,
    Run("Attention of transformers: sdpa, flash_attention_2, eager, ...; by default its own choice."),
]
ExpertsImplementation = Annotated[
    str | None,
    Run("Experts of transformers: grouped_mm, batched_mm, eager, ...; by default its own choice."),
]
Optimizer = Annotated[
    OptimizerName,
    Training("adamw keeps 8 bytes of moments a weight; adamw-8bit 2 (torchao: pip install 'padd[low-bit]')."),
]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16"],
    Method("Type of the weights while running; auto is the checkpoint's."),
]
TrainDtype = Annotated[
    Literal["auto", "float32", "bfloat16"],
    Method(
        "Type that models compute in, routers excepted; auto is the checkpoint's. What is trained is kept in float32."
    ),
]
Profile = Annotated[
    int,
    Run("Steps whose operations are timed by torch's profiler, after the first; see profile/ in the result."),
]
EngineName = Annotated[
    Literal["transformers", "vllm"],
    Method("What samples responses: padd's own decoding, or a vLLM server (docs/ROLLOUTS.md)."),
]
EngineUrl = Annotated[str | None, Run("Address of the server of --engine vllm, as http://host:8000.")]
EngineTimeout = Annotated[float, Run("Seconds to wait for one answer of --engine vllm: a whole response.")]
Workers = Annotated[int, Run("Grader processes.")]
GradingLimit = Annotated[
    float, Run("Seconds that grading one answer may take; then it scores 0 and is counted.")
]


class EngineOptions(Protocol):
    """Options of a stage that a server may sample for."""

    @property
    def engine(self) -> Literal["transformers", "vllm"]: ...
    @property
    def engine_url(self) -> str | None: ...
    @property
    def engine_timeout(self) -> float: ...


Mode = Literal["headline", "greedy", "sampled"]
PublishedSet = Literal["qwen", "deepseek", "ablation"]
