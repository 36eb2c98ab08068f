"""Tokens a second and peak memory of `padd train` beside TRL's GRPOTrainer, on the same work.

    python benchmarks/training.py [--quick] [--json] [--rounds N] [--rollouts N]

The work: the toy's mixture of experts in fp32, 32 prompts x 8 responses of at most 44 tokens at temperature 1, two
updates a rollout over all 256 responses, the same learning rate, no reference model, no gradient checkpointing, one
trivial reward. `grading` is grpo with the real grader beside it. PADD's teacher is dense, random, of 2 to 3 times the
student's active parameters. Ours takes micro-batches of 4,096 tokens, which hold 64 of the longest sequences or more; TRL
runs with micro-batches of 64 responses and of all 256, and the better counts: the faster one for the speed, the smaller
one for the memory.

Every contender runs in a process of its own, `rounds` times in turn. A rollout's time is from the end of the one
before to its own end, so it holds all that a step does; the first is left out. A round repeats the same rollouts, so
each rollout's time is the least over the rounds, and a contender's time their sum.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

THREADS = 2
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
QUICK = [*TRLS, "grpo", "padd"]


def parity(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """The trivial reward: 1 for a response of an even number of tokens."""
    return [float(len(ids) % 2 == 0) for ids in completion_ids]


def prepare(folder: Path) -> None:
    """Write the toy, its split, and the random teacher."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from padd_artifacts.writer import Output
    from padd_stages import split_data
    from padd_stages.models.loading import load_model, load_tokenizer, parameter_counts
    from padd_stages.options.split_data import SplitInputs, SplitOptions
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
    """A reporter that keeps when each rollout ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def phase(self, name: str, total: int | None = None) -> None:
        """Nothing to keep."""

    def advance(self, n: int = 1, line: str = "") -> None:
        """The loop also reports 0 rollouts before the first."""
        if n:
            self.ends.append(time.perf_counter())

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
        from padd_stages.data.grading import Verdict

        return [Verdict(False, None, "different")] * len(pairs)


def run_ours(contender: str, folder: Path, out: Path, rollouts: int) -> dict[str, Any]:
    """`padd train` with a method preset, through the function that the command calls."""
    from padd_artifacts.writer import Output
    from padd_cli.config import load_method
    from padd_stages import train
    from padd_stages.models.loading import quiet_transformers
    from padd_stages.options.train import TrainInputs, TrainOptions

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
        "ends": progress.ends,
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
    from padd_stages.models.loading import load_tokenizer

    ends: list[float] = []
    tokens: list[int] = []

    class _Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % UPDATES == 0:
                ends.append(time.perf_counter())

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
    return {"ends": ends, "tokens": tokens, "laps": [], "imported_mb": base}


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


def contend(contender: str, folder: Path, rollouts: int) -> None:
    """The body of a contender's process: prints what it measured on the last line."""
    import torch

    torch.set_num_threads(THREADS)
    run = run_trl if contender in TRLS else run_ours
    with tempfile.TemporaryDirectory() as out:
        found = run(contender, folder, Path(out) / "run", rollouts)
    print(json.dumps(found | {"peak_mb": peak_memory()}))


def in_process(arguments: list[str]) -> str:
    """Run this file in a process of its own; returns the last line it printed."""
    # passive: threads that wait do not spin, so that other work on the machine disturbs less
    environment = os.environ | {
        "OMP_NUM_THREADS": str(THREADS),
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
    }
    command = [sys.executable, str(Path(__file__).resolve()), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} failed:\n{done.stderr[-4000:]}")
    return done.stdout.strip().rpartition("\n")[2]


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """One contender's figures from its rounds, the first rollout left out."""

    def least(values: list[list[float]]) -> list[float]:
        return [min(column) for column in zip(*values, strict=True)]

    seconds = least([[b - a for a, b in zip(run["ends"], run["ends"][1:])] for run in runs])
    tokens = runs[0]["tokens"][1:]
    names = [name for name in (runs[0]["laps"] or [{}])[0] if name.startswith("seconds/")]
    laps = {name: least([[row[name] for row in run["laps"][1:]] for run in runs]) for name in names}
    return {
        "tokens_per_second": round(sum(tokens) / sum(seconds), 1),
        "tokens_a_rollout": round(sum(tokens) / len(tokens), 1),
        "seconds_a_rollout": round(sum(seconds) / len(seconds), 4),
        "parts": {name.removeprefix("seconds/"): round(sum(v) / len(v), 4) for name, v in laps.items()},
        "peak_mb": min(run["peak_mb"] for run in runs),
        "imported_mb": min(run["imported_mb"] for run in runs),
    }


def ratios(found: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The three figures that have targets."""
    trl_speed = max(found[name]["tokens_per_second"] for name in TRLS)
    trl_memory = min(found[name]["peak_mb"] for name in TRLS)
    grpo, padd = found["grpo"], found["padd"]
    return {
        "grpo_speed_vs_trl": round(grpo["tokens_per_second"] / trl_speed, 3),
        "padd_time_vs_grpo": round(padd["seconds_a_rollout"] / grpo["seconds_a_rollout"], 3),
        "grpo_memory_vs_trl": round(grpo["peak_mb"] / trl_memory, 3),
    }


def show(found: dict[str, dict[str, Any]], say: Callable[[str], None]) -> None:
    """A line a contender, and where our time goes."""
    for name, row in found.items():
        parts = ", ".join(f"{part} {seconds:.3f}" for part, seconds in row["parts"].items())
        say(
            f"{name:10} {row['tokens_per_second']:7.0f} tok/s {row['seconds_a_rollout']:7.3f} s "
            f"{row['tokens_a_rollout']:6.0f} tokens, peak {row['peak_mb']:.0f} MB "
            f"({row['imported_mb']:.0f} MB imported){'; s: ' + parts if parts else ''}"
        )


def measure(rounds: int, rollouts: int, contenders: list[str]) -> dict[str, Any]:
    """All contenders in turn, `rounds` times."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    with tempfile.TemporaryDirectory() as folder:
        in_process(["--prepare", folder])
        for _ in range(rounds):
            for name in contenders:
                line = in_process(["--contender", name, "--folder", folder, "--rollouts", str(rollouts)])
                runs[name].append(json.loads(line))
        sizes = json.loads((Path(folder) / "sizes.json").read_text())
    found = {name: summarise(several) for name, several in runs.items()}
    show(found, lambda text: print(text, file=sys.stderr))
    return ratios(found) | {"contenders": found, "rounds": rounds, "rollouts": rollouts} | sizes


def main() -> None:
    """Measure, print a table; with ``--json`` one object on the last line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="one round of three rollouts of the four that the ratios need"
    )
    parser.add_argument("--json", action="store_true", help="one object on the last line of stdout")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rollouts", type=int, default=6)
    for hidden in ("--prepare", "--contender", "--folder"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.prepare:
        prepare(Path(given.prepare))
    elif given.contender:
        contend(given.contender, Path(given.folder), given.rollouts)
    else:
        if given.quick:
            found = measure(1, 3, QUICK)
        else:
            found = measure(given.rounds, given.rollouts, [*TRLS, *OURS])
        names = ("grpo_speed_vs_trl", "padd_time_vs_grpo", "grpo_memory_vs_trl")
        print(json.dumps(found) if given.json else "\n".join(f"{name} {found[name]}" for name in names))


if __name__ == "__main__":
    main()
