"""Inputs and options of `padd train` (docs/METHOD.md, sections 4 and 5). Names that TRL users know are kept."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

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
from padd_stages.lib.runtime.trackers import TrackerName


class TrainInputs(Inputs):
    """Inputs of train."""

    student: Annotated[str, Artifacts("Model to train: a padd student, a folder, hub id or short name.")]
    teacher: Annotated[
        str | None, Artifacts("Dense teacher; needed unless --kd-weight is 0. Folder, hub id or short name.")
    ] = None
    split: Annotated[Path, Artifacts("The split artifact; its D_C is read.")]


class TrainOptions(Options):
    """Options of the fused run of Stages II to IV, and of its baselines."""

    # Stage II
    kd_weight: Annotated[float, Method("w_KD, weight of the distillation term; 0 needs no teacher.")] = Field(
        1.0, ge=0
    )
    kl: Annotated[
        Literal["forward", "reverse"], Method("KL(teacher||student), the paper's, or its reverse.")
    ] = "reverse"
    kd_temper: Annotated[
        Literal["teacher", "both"], Method("Whose logits get the adaptive temperature; teacher is literal.")
    ] = "both"
    kd_on: Annotated[Literal["all", "correct", "wrong"], Method("Which responses are distilled on.")] = "all"
    kd_as: Annotated[
        Literal["loss", "advantage"],
        Method(
            "How the teacher acts: a KL loss, or each token's advantage falls by log policy - log teacher (on-policy "
            "distillation)."
        ),
    ] = "loss"
    kd_clamp: Annotated[
        float | None, Method("Most that one token's KL counts, in nats; beyond, it has no gradient.")
    ] = Field(None, gt=0)
    tau: Annotated[float, Method("Base temperature of the distillation.")] = Field(1.0, gt=0)
    kappa: Annotated[float, Method("How strongly the advantage moves the temperature.")] = Field(0.5, ge=0)
    phi: Annotated[
        Literal["inverse", "literal", "fixed"],
        Method("inverse: hotter for A < 0 (the paper's text); literal: its printed formula; fixed: 1."),
    ] = "inverse"
    phi_min: Annotated[float, Method("Lower bound of Phi.")] = Field(0.25, gt=0)
    teacher_max_positions: TeacherMaxPositions = Field(None, ge=1)
    teacher_rope_theta: TeacherRopeTheta = Field(None, gt=0)
    # Stage III
    drift_lambda: Annotated[
        float, Method("lambda, damping of A < 0 tokens whose routing drifts; 0 is off.")
    ] = Field(0.1, ge=0)
    drift_units: Annotated[
        Literal["relative", "raw"], Method("Gamma in units of its running mean, or as printed (literal).")
    ] = "relative"
    drift_grad: Annotated[
        bool, Method("Let the gradient through Gamma; off, the drift weight is a constant.")
    ] = False
    trace_dtype: Annotated[
        Literal["fp32", "fp16"],
        Training(
            "How the old policy's router probabilities are kept; fp16 halves it and logs Gamma's error."
        ),
    ] = "fp32"
    # Stage IV
    eta: Annotated[float, Method("Step of the router bias against overload, per rollout.")] = Field(
        0.002, ge=0
    )
    gamma: Annotated[float, Method("Step of the router bias towards experts of high advantage.")] = Field(
        0.002, ge=0
    )
    ema_rate: Annotated[
        float, Method("l_ema, share of the current rollout in an expert's mean advantage.")
    ] = Field(0.1, gt=0, le=1)
    bias_max: Annotated[float, Method("Bound of the router bias.")] = Field(1.0, gt=0)
    balance_sign: Annotated[
        Literal["minus", "plus"], Method("minus unloads overloaded experts; plus is the printed formula.")
    ] = "minus"
    bias_mode: Annotated[
        Literal["logits", "selection"],
        Method("Add the bias to the logits, or to the choice of experts only."),
    ] = "logits"
    # policy gradient
    loss_type: Annotated[
        Literal["grpo", "dapo", "dr_grpo", "gspo", "gmpo"], Method("How J is normalised and clipped.")
    ] = "dapo"
    epsilon: Annotated[float | None, Method("Lower clip range; by default the loss type's own.")] = Field(
        None, gt=0
    )
    epsilon_high: Annotated[float | None, Method("Upper clip range; by default the loss type's own.")] = (
        Field(None, gt=0)
    )
    router_shift: Annotated[
        Literal["off", "before-clip", "after-clip"],
        Method(
            "RSPO's weight of routing that moved: joins the ratio before gmpo's clip (v2) or after it (v1)."
        ),
    ] = "off"
    # the value of public implementations; the RSPO paper's own (arXiv 2510.23027) could not be read
    router_shift_floor: Annotated[float, Method("Lower bound of RSPO's weight.")] = Field(0.8, gt=0, le=1)
    router_replay: Annotated[
        Literal["off", "old", "rollout"],
        Method(
            "Keep top-K experts, weights recomputed: old, in updates those of the old policy (R2); rollout, in the old "
            "policy's pass and in updates those of the sampler (R3)."
        ),
    ] = "off"
    stable_moe: Annotated[
        float,
        Method(
            "Share of the rollouts in which a router by words learns the student's routes; after them it routes "
            "(StableMoE). 0 is off."
        ),
    ] = Field(0.0, ge=0, lt=1)
    rollout_correction: Annotated[
        Literal["none", "tis", "mis", "icepop"],
        Method(
            "Weight of tokens by old policy / sampler: tis caps it at 2; icepop drops tokens outside 0.5 to 5; mis "
            "drops responses above 3."
        ),
    ] = "none"
    entropy_coef: Annotated[
        float, Method("Weight of the mean entropy of tokens, which is added to the objective.")
    ] = Field(0.0, ge=0)
    router_aux_loss_coef: Annotated[
        float,
        Method(
            "Weight of the balance loss N sum f P, with the old policy's load f; the student's own is not used."
        ),
    ] = Field(0.0, ge=0)
    beta_ref: Annotated[
        float, Method("Weight of the KL (k3) to the initial student, which is then kept in memory too.")
    ] = Field(0.0, ge=0)
    scale_rewards: Annotated[
        Literal["group", "none"], Method("Divide advantages by the group's standard deviation, or not.")
    ] = "group"
    num_generations: Annotated[int, Method("n, responses per prompt.")] = Field(8, ge=2)
    prompts_per_step: Annotated[int, Method("Prompts per rollout, over all processes.")] = Field(32, ge=1)
    num_iterations: Annotated[
        int, Method("Optimizer updates per rollout; Stage III acts from the second.")
    ] = Field(2, ge=1)
    dynamic_sampling: Annotated[
        int,
        Method("Further draws of prompts, at most, in place of groups whose rewards are all equal (DAPO)."),
    ] = Field(0, ge=0)
    mini_batches: Annotated[
        int, Method("Parts of a rollout that each get an update of their own, in every iteration.")
    ] = Field(1, ge=1)
    max_completion_length: Annotated[int, Method("Longest response, in tokens; see --truncated.")] = Field(
        3000, ge=1
    )
    truncated: Annotated[
        Literal["zero", "keep", "mask", "soft"],
        Method(
            "A response without an end: zero, scores 0; keep, what the rewards say; mask, is left out of its group, "
            "advantage 0; soft, any reward falls by up to 1 over the last fifth of the length (DAPO)."
        ),
    ] = "zero"
    max_prompt_length: Annotated[int, Method("Longer prompts are left out, and counted.")] = Field(1024, ge=1)
    temperature: Annotated[float, Method("Sampling temperature of the rollout.")] = Field(1.0, gt=0)
    top_p: Annotated[float, Method("Nucleus of the rollout.")] = Field(1.0, gt=0, le=1)
    system: SystemPrompt = DEFAULT_SYSTEM
    thinking: Thinking = False
    engine: EngineName = "transformers"
    # rewards
    reward: Annotated[
        tuple[str, ...],
        Method("accuracy, format, or your own as module:function or file.py:function; repeatable."),
    ] = ("accuracy", "format")
    reward_weights: Annotated[
        tuple[float, ...],
        Method(
            "Repeat: a weight for each --reward; else 1, and 0 for format, since a bonus invites hacking."
        ),
    ] = ()
    log_samples: Annotated[int, Method("Responses of each rollout kept in samples.jsonl.")] = Field(4, ge=0)
    log_shift_every: Annotated[
        int, Method("Rollouts between measurements of Router-shift, one more forward each; 0 makes none.")
    ] = Field(10, ge=0)
    log_noise_every: Annotated[
        int,
        Method(
            "Rollouts between measurements of the cosine between the gradients of two halves of a rollout; 0 makes "
            "none."
        ),
    ] = Field(0, ge=0)
    export: Annotated[
        Literal["last", "best"],
        Method(
            "The result: the last student, or the checkpoint of the highest mean reward since the one before."
        ),
    ] = "last"
    # optimisation
    trainable: Annotated[
        Literal["all", "all-but-routers", "experts", "routers", "lora"],
        Training(
            "What is learnt; lora: low-rank factors beside matrices (peft), added to them in the result."
        ),
    ] = "all"
    lora_r: Annotated[int, Training("Rank of the factors of --trainable lora.")] = Field(16, ge=1)
    lora_alpha: Annotated[
        float, Training("The factors' product is multiplied by --lora-alpha / --lora-r.")
    ] = Field(32.0, gt=0)
    lora_target: Annotated[
        tuple[Literal["attention", "experts", "routers"], ...],
        Training("What has factors; repeatable."),
    ] = ("attention", "experts")
    steps: Annotated[int, Training("Rollouts.")] = Field(200, ge=1)
    learning_rate: Annotated[float, Training("Peak learning rate.")] = Field(1e-6, gt=0)
    lr_warmup_steps: Annotated[int, Training("Rollouts of linear learning-rate warmup.")] = Field(10, ge=0)
    lr_schedule: Annotated[
        Literal["linear", "constant"], Training("After warmup: decay to zero or stay.")
    ] = "linear"
    optimizer: Optimizer = "adamw"
    weight_decay: Annotated[float, Training("AdamW weight decay.")] = Field(0.0, ge=0)
    max_grad_norm: Annotated[float, Training("Gradient clipping.")] = Field(1.0, gt=0)
    gradient_checkpointing: GradientCheckpointing = False
    dtype: TrainDtype = "auto"
    # run
    micro_batch_tokens: Annotated[int, Run("Padded tokens in one forward pass.")] = Field(16384, ge=1)
    generation_batch_tokens: Annotated[int, Run("Padded tokens in one generation batch.")] = Field(
        65536, ge=1
    )
    engine_url: EngineUrl = None
    engine_timeout: EngineTimeout = Field(3600.0, gt=0)
    engine_weights: Annotated[
        Path | None,
        Run(
            "Folder for the student's weights that the engine's machine sees under the same path; by default beside "
            "the result."
        ),
    ] = None
    engine_tolerance: Annotated[
        float,
        Run(
            "Most that log-probabilities of the engine and the student may differ by, nats a token, in a probe before "
            "each rollout; beyond, the run stops."
        ),
    ] = Field(0.05, gt=0)
    engine_sleep: Annotated[
        bool, Run("Let the engine free its GPU memory during updates (vLLM's --enable-sleep-mode).")
    ] = False
    checkpoint_every: Annotated[int, Run("Rollouts between checkpoints; 0 writes none.")] = Field(10, ge=0)
    keep_checkpoints: Annotated[
        int, Run("Newest checkpoints kept; --export best keeps the best one too.")
    ] = Field(2, ge=1)
    tracker: Annotated[
        tuple[TrackerName, ...],
        Run("Show the metrics there too; repeatable. metrics.jsonl is always written."),
    ] = ()
    attn_implementation: AttnImplementation = None
    experts_implementation: ExpertsImplementation = None
    device: Device = "auto"
    teacher_device: TeacherDevice = None
    profile: Profile = Field(0, ge=0)
    workers: Workers = Field(2, ge=1)
    grading_limit: GradingLimit = Field(5.0, gt=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.reward_weights and len(self.reward_weights) != len(self.reward):
            raise ValueError(
                f"--reward-weights gives {len(self.reward_weights)} weights for {len(self.reward)} rewards "
                f"({', '.join(self.reward)}), so it is not known which is whose; give one weight a --reward."
            )
        if self.export == "best" and not self.checkpoint_every:
            raise ValueError(
                "--export best chooses among the checkpoints and --checkpoint-every 0 writes none; set it above 0."
            )
        return self

    def method(self) -> dict[str, Any]:
        """Return the method options; with --export best the spacing of checkpoints is one of them."""
        spacing = {"checkpoint_every": self.checkpoint_every} if self.export == "best" else {}
        return super().method() | spacing
