"""Tokens a second and peak memory of `padd train` beside TRL's GRPOTrainer, on the same work.

    python benchmarks/training.py [--quick] [--json] [--rounds N] [--rollouts N]

The work: the toy's mixture of experts in fp32, 32 prompts x 8 responses of at most 44 tokens at temperature 1, two
updates a rollout over all 256 responses, the same learning rate, no reference model, no gradient checkpointing, one
trivial reward. `grading` is grpo with the real grader beside it. PADD's teacher is dense, random, of 2 to 3 times the
student's active parameters. Ours takes micro-batches of 4,096 tokens, which hold 64 of the longest sequences; TRL runs
with micro-batches of 64 responses and of all 256, and the better counts: the faster for speed, the smaller for memory.

Every contender runs in a process of its own, `rounds` times in turn. A rollout's time is from the end of the one
before to its own end, so it holds all that a step does; the first is left out. A round repeats the same rollouts, so
each rollout's time is the least over the rounds, and a contender's time their sum. Processor time is given too, since
other work on the machine changes it less.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from training_contenders import OURS, TRLS, peak_memory, prepare, run_ours, run_trl

THREADS = 2
QUICK = ["trl-256", "grpo", "padd"]  # the faster of TRL's two settings


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
    environment = os.environ | {"OMP_NUM_THREADS": str(THREADS), "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, str(Path(__file__).resolve()), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} failed:\n{done.stderr[-4000:]}")
    return done.stdout.strip().rpartition("\n")[2]


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """One contender's figures from its rounds, the first rollout left out."""

    def least(values: list[list[float]]) -> list[float]:
        return [min(column) for column in zip(*values, strict=True)]

    seconds, processor = (
        least([[b - a for a, b in zip(run[clock], run[clock][1:])] for run in runs])
        for clock in ("ends", "processor")
    )
    tokens = runs[0]["tokens"][1:]
    names = [name for name in (runs[0]["laps"] or [{}])[0] if name.startswith("seconds/")]
    laps = {name: least([[row[name] for row in run["laps"][1:]] for run in runs]) for name in names}
    return {
        "tokens_per_second": round(sum(tokens) / sum(seconds), 1),
        "tokens_a_rollout": round(sum(tokens) / len(tokens), 1),
        "seconds_a_rollout": round(sum(seconds) / len(seconds), 4),
        "processor_seconds_a_rollout": round(sum(processor) / len(processor), 4),
        "parts": {name.removeprefix("seconds/"): round(sum(v) / len(v), 4) for name, v in laps.items()},
        "peak_mb": min(run["peak_mb"] for run in runs),
        "imported_mb": min(run["imported_mb"] for run in runs),
    }


def ratios(found: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The three figures that have targets."""
    trls = [found[name] for name in TRLS if name in found]
    trl_speed = max(row["tokens_per_second"] for row in trls)
    trl_memory = min(row["peak_mb"] for row in trls)
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
            f"(processor {row['processor_seconds_a_rollout']:.3f} s) "
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
        "--quick", action="store_true", help="one round of four rollouts; of TRL the micro-batch of 256 alone"
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
        names = QUICK if given.quick else [*TRLS, *OURS]
        found = measure(*((1, 4) if given.quick else (given.rounds, given.rollouts)), names)
        ratios_ = {name: value for name, value in found.items() if "_vs_" in name}
        print(json.dumps(found) if given.json else json.dumps(ratios_, indent=1))


if __name__ == "__main__":
    main()
