"""Inputs and options of `padd warmup` (docs/METHOD.md, section 3)."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from padd_stages.lib.options.base import Artifacts, Inputs, Method, Options, Run, Training
from padd_stages.lib.options.shared import (
    DEFAULT_SYSTEM,
    AttnImplementation,
    Device,
    EngineName,
    EngineTimeout,
    EngineUrl,
    ExpertsImplementation,
    GradientCheckpointing,
    GradingLimit,
    MaxNewTokens,
    Optimizer,
    Profile,
    SystemPrompt,
    TeacherDevice,
    TeacherMaxPositions,
    TeacherRopeTheta,
    Thinking,
    TrainDtype,
    Workers,
)


class WarmupInputs(Inputs):
    """Inputs of warmup."""

    teacher: Annotated[str, Artifacts("Dense teacher: folder, hub id or short name.")]
    student: Annotated[str, Artifacts("Pre-trained MoE student: folder, hub id or short name.")]
    clusters: Annotated[Path, Artifacts("The clusters artifact made for this pair.")]
    split: Annotated[Path, Artifacts("The split artifact; its D_B is read.")]


class WarmupOptions(Options):
    """Options of the expert warmup."""

    alpha: Annotated[float, Method("Weight of the distillation term L_KD.")] = Field(1.0, ge=0)
    beta: Annotated[float, Method("Weight of the expert-initialisation term L_init.")] = Field(0.1, ge=0)
    tau: Annotated[float, Method("Temperature of L_KD.")] = Field(1.0, gt=0)
    warmup_routing: Annotated[
        Literal["uniform", "anneal", "topk"],
        Method(
            "uniform: every expert gets every token (literal); anneal: from uniform to the student's own top-K."
        ),
    ] = "topk"
    trainable: Annotated[Literal["experts", "all"], Method("What is trained; the router never is.")] = (
        "experts"
    )
    warmup_text: Annotated[
        Literal["solution", "teacher"],
        Method("Worked solutions of the data, or the teacher's own that the grader accepts."),
    ] = "solution"
    init_target: Annotated[
        Literal["dataset", "token"],
        Method(
            "L_init compares experts with clusters by their means over the data (literal), or token by token."
        ),
    ] = "dataset"
    init_ema: Annotated[
        float, Method("Share of the current batch in the running mean of h_S (--init-target dataset).")
    ] = Field(0.1, gt=0, le=1)
    teacher_max_positions: TeacherMaxPositions = Field(None, ge=1)
    teacher_rope_theta: TeacherRopeTheta = Field(None, gt=0)
    system: SystemPrompt = DEFAULT_SYSTEM
    thinking: Thinking = False
    max_new_tokens: MaxNewTokens = Field(1024, ge=1)
    engine: EngineName = "transformers"
    max_length: Annotated[
        int, Method("Longest prompt with solution, in tokens; longer rows are left out.")
    ] = Field(2048, ge=2)
    held_out: Annotated[float, Method("Share of D_B kept for the before/after report.")] = Field(
        0.1, gt=0, lt=1
    )
    max_held_out: Annotated[int, Method("Most held-out rows.")] = Field(256, ge=1)
    steps: Annotated[int, Training("Optimizer steps.")] = Field(100, ge=1)
    batch_size: Annotated[int, Training("Rows per step, over all processes.")] = Field(32, ge=1)
    learning_rate: Annotated[float, Training("Peak learning rate.")] = Field(1e-5, gt=0)
    lr_warmup_steps: Annotated[int, Training("Steps of linear learning-rate warmup.")] = Field(10, ge=0)
    lr_schedule: Annotated[
        Literal["linear", "constant"], Training("After warmup: decay to zero or stay.")
    ] = "linear"
    optimizer: Optimizer = "adamw"
    weight_decay: Annotated[float, Training("AdamW weight decay.")] = Field(0.0, ge=0)
    max_grad_norm: Annotated[float, Training("Gradient clipping.")] = Field(1.0, gt=0)
    gradient_checkpointing: GradientCheckpointing = False
    dtype: TrainDtype = "auto"
    micro_batch_tokens: Annotated[int, Run("Padded tokens in one forward pass.")] = Field(8192, ge=1)
    generation_batch_tokens: Annotated[int, Run("Padded tokens in one generation batch.")] = Field(
        65536, ge=1
    )
    checkpoint_every: Annotated[int, Run("Steps between checkpoints; 0 writes none.")] = Field(50, ge=0)
    attn_implementation: AttnImplementation = None
    experts_implementation: ExpertsImplementation = None
    engine_url: EngineUrl = None
    engine_timeout: EngineTimeout = Field(3600.0, gt=0)
    device: Device = "auto"
    teacher_device: TeacherDevice = None
    profile: Profile = Field(0, ge=0)
    workers: Workers = Field(2, ge=1)
    grading_limit: GradingLimit = Field(5.0, gt=0)
