"""Who takes part in benchmarks/training.py, and the work that all are given."""

import json
import resource
import time
from pathlib import Path
from typing import Any

PROMPTS, GROUP, NEW_TOKENS, UPDATES = 32, 8, 44, 2
RESPONSES = PROMPTS * GROUP
LEARNING_RATE = (
    1e-6  # both sides' default: the policy hardly moves, so that all write about equally long responses
)
MICRO_BATCH_TOKENS = 4096
PROBLEMS = 700  # of which 420 are D_C: 13 rollouts before a problem comes again
TEACHER_LAYERS = 3  # of the toy teacher's size: 2.7 times the student's active parameters
OURS = {"grpo": "grpo", "gspo": "gspo", "padd": "padd", "grading": "grpo"}  # contender: method preset
TRLS = {"trl-64": RESPONSES // 4, "trl-256": RESPONSES}  # contender: responses of a micro-batch


def parity(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """The trivial reward: 1 for a response of an even number of tokens."""
    return [float(len(ids) % 2 == 0) for ids in completion_ids]


def prepare(folder: Path) -> None:
    """Write the toy, its split, and the random teacher."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from padd_artifacts.writer import Output
    from padd_stages.lib.models.loading import load_model, load_tokenizer, parameter_counts
    from padd_stages.split_data import stage as split_data
    from padd_stages.split_data.options import SplitInputs, SplitOptions
    from padd_stages.toy.unpack import unpack

    unpack(folder / "toy", PROBLEMS)
    inputs = SplitInputs(problems=str(folder / "toy" / "problems.jsonl"))
    split_data.run(inputs, SplitOptions(), Output(folder / "split"))
    config = Qwen2Config.from_pretrained(folder / "toy" / "teacher")
    config.num_hidden_layers, config.layer_types = TEACHER_LAYERS, config.layer_types[:TEACHER_LAYERS]
    torch.manual_seed(0)
    teacher = Qwen2ForCausalLM(config)
    teacher.save_pretrained(folder / "teacher")
    load_tokenizer(str(folder / "toy" / "teacher")).save_pretrained(folder / "teacher")
    student = load_model(str(folder / "toy" / "student"))
    ratio = teacher.num_parameters() / parameter_counts(student)["active"]
    (folder / "sizes.json").write_text(json.dumps({"teacher_over_student": round(ratio, 2)}))


class Progress:
    """A reporter that keeps when each rollout ended, by the clock and in processor time."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.processor: list[float] = []

    def mark(self) -> None:
        """A rollout has ended."""
        self.ends.append(time.perf_counter())
        self.processor.append(time.process_time())

    def phase(self, name: str, total: int | None = None) -> None:
        """Nothing to keep."""

    def advance(self, n: int = 1, line: str = "") -> None:
        """The loop also reports 0 rollouts before the first."""
        if n:
            self.mark()

    def note(self, text: str) -> None:
        """Nothing to keep."""

    def warn(self, text: str) -> None:
        """Nothing to keep."""


class NoGrader:
    """Stands in for the grader where grading is not measured: nothing is right."""

    timeouts = 0

    def __init__(self, workers: int, time_limit: float) -> None: ...

    def __enter__(self) -> "NoGrader":
        return self

    def __exit__(self, *error: object) -> None: ...

    def grade(self, pairs: list[Any], extract: str) -> list[Any]:
        """One wrong verdict a pair."""
        from padd_stages.lib.grading.grader import Verdict

        return [Verdict(False, None, "different")] * len(pairs)


def run_ours(contender: str, folder: Path, out: Path, rollouts: int) -> dict[str, Any]:
    """`padd train` with a method preset, through the function that the command calls."""
    from padd_artifacts.writer import Output
    from padd_cli.flags.config import load_method
    from padd_stages.lib.models.loading import quiet_transformers
    from padd_stages.train import stage as train
    from padd_stages.train.options import TrainInputs, TrainOptions

    quiet_transformers()
    if contender != "grading":
        vars(train)["Grader"] = NoGrader
    options = TrainOptions(
        **load_method(OURS[contender], "train", TrainOptions.model_fields),
        steps=rollouts,
        prompts_per_step=PROMPTS,
        num_generations=GROUP,
        num_iterations=UPDATES,
        max_completion_length=NEW_TOKENS,
        learning_rate=LEARNING_RATE,
        lr_warmup_steps=0,
        lr_schedule="constant",
        system="",
        micro_batch_tokens=MICRO_BATCH_TOKENS,
        reward=(f"{Path(__file__).resolve()}:parity",),
        checkpoint_every=0,
        device="cpu",
    )
    inputs = TrainInputs(
        student=str(folder / "toy" / "student"), teacher=str(folder / "teacher"), split=folder / "split"
    )
    progress = Progress()
    base = peak_memory()
    artifact = train.run(inputs, options, Output(out), progress)
    lengths = [row["completions/mean_length"] for row in artifact.jsonl("metrics.jsonl")]
    return {
        **vars(progress),
        "tokens": [round(length * RESPONSES) for length in lengths],
        "laps": artifact.jsonl("timings.jsonl"),
        "imported_mb": base,
    }


def run_trl(contender: str, folder: Path, out: Path, rollouts: int) -> dict[str, Any]:
    """GRPOTrainer.train with the same prompts, sizes and reward; `dapo` is our grpo preset's normaliser too."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from padd_artifacts.artifact import open_artifact
    from padd_stages.lib.models.loading import load_tokenizer

    progress = Progress()
    tokens: list[int] = []

    class _Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % UPDATES == 0:
                progress.mark()

    def reward(completion_ids: list[list[int]], **columns: Any) -> list[float]:
        tokens.append(sum(map(len, completion_ids)))
        return parity(completion_ids, **columns)

    base = peak_memory()
    student = str(folder / "toy" / "student")
    rows = open_artifact(folder / "split", check=False).jsonl("c.jsonl")
    trainer = GRPOTrainer(
        model=student,
        args=GRPOConfig(output_dir=str(out), **trl_settings(TRLS[contender], rollouts)),
        reward_funcs=reward,
        train_dataset=Dataset.from_list(
            [{"prompt": [{"role": "user", "content": row["problem"]}]} for row in rows]
        ),
        processing_class=load_tokenizer(student),
        callbacks=[_Clock()],
    )
    trainer.train()
    return {**vars(progress), "tokens": tokens, "laps": [], "imported_mb": base}


def trl_settings(micro_batch: int, rollouts: int) -> dict[str, Any]:
    """An update sees all responses of a rollout, as ours does; nothing is saved or shown."""
    return {
        "max_steps": rollouts * UPDATES,
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": RESPONSES // micro_batch,
        "steps_per_generation": RESPONSES // micro_batch,
        "num_iterations": UPDATES,
        "num_generations": GROUP,
        "max_completion_length": NEW_TOKENS,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0,
        "beta": 0.0,
        "loss_type": "dapo",
        "model_init_kwargs": {"dtype": "float32"},
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "disable_tqdm": True,
        "logging_steps": 10_000,
        "save_strategy": "no",
        "report_to": "none",
    }


def peak_memory() -> float:
    """Peak resident memory of this process so far, MB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
