"""Recipe of the toy teacher and the toy student; `build` repeats it from nothing in about half an hour."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from padd_stages.lib.runtime.reporter import SILENT, Reporter
from padd_stages.toy.measuring import accuracy, expert_loads, parameter_counts
from padd_stages.toy.models import new_student, new_teacher
from padd_stages.toy.options import DEFAULT_PROBLEMS
from padd_stages.toy.pretraining import Schedule, pretrain
from padd_stages.toy.problems import generate
from padd_stages.toy.tokenizer import build_tokenizer

PRETRAINING_PROBLEMS = 40_600  # 5,800 of each subdomain; the smallest pool holds about 6,700
PRETRAINING_SEED = 1_000_003
HELD_OUT_PROBLEMS = DEFAULT_PROBLEMS  # all that `unpack` writes, of the pool that pre-training never sees
HELD_OUT_SEED = 0

TEACHER_ORDER, STUDENT_ORDER = 1, 2  # seeds of the two vocabulary orders

# Measured: see toy.json of the shipped weights. The student learns from text of which half is wrong, which leaves
# it right more often greedily than sampled: it knows the arithmetic, and reinforcement has something to sharpen.
# A student stopped early on clean text has nothing of the kind and hardly moves.
TEACHER_SCHEDULES = (
    Schedule(steps=2_200, learning_rate=2e-3, seed=11, batch_size=64, warmup_steps=100),
    Schedule(steps=1_000, learning_rate=1.5e-3, seed=12, batch_size=64, warmup_steps=50),
)
STUDENT_SCHEDULES = (Schedule(steps=1_200, learning_rate=3e-3, seed=22, corrupted=0.5),)
BALANCING_WEIGHT = 0.01


@contextmanager
def _deterministic(seed: int) -> Iterator[None]:
    """Seed torch and require reproducible kernels; restore both afterwards."""
    before = torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)


def _finish(model: Any, tokenizer: Any, folder: Path) -> dict[str, Any]:
    """Save in float32 and measure."""
    if hasattr(model.config, "router_aux_loss_coef"):
        model.config.router_aux_loss_coef = 0.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    rows = generate(HELD_OUT_PROBLEMS, HELD_OUT_SEED)
    return {
        "parameters": parameter_counts(model),
        "greedy": accuracy(model, tokenizer, rows),
        "sampled": accuracy(model, tokenizer, rows, sampled=True),
    }


def build_teacher(folder: Path, reporter: Reporter = SILENT) -> dict[str, Any]:
    """Train the dense teacher on right solutions and save it; return its measurements."""
    tokenizer = build_tokenizer(TEACHER_ORDER)
    rows = generate(PRETRAINING_PROBLEMS, PRETRAINING_SEED, "pretraining")
    with _deterministic(TEACHER_SCHEDULES[0].seed):
        model = new_teacher(tokenizer)
        losses = [pretrain(model, tokenizer, rows, schedule, reporter) for schedule in TEACHER_SCHEDULES]
    schedules = [asdict(schedule) for schedule in TEACHER_SCHEDULES]
    return {
        "schedules": schedules,
        "losses": [round(loss, 4) for loss in losses],
        **_finish(model, tokenizer, folder),
    }


def build_student(folder: Path, reporter: Reporter = SILENT) -> dict[str, Any]:
    """Train the mixture of experts on text of which half is wrong and save it; return its measurements."""
    tokenizer = build_tokenizer(STUDENT_ORDER)
    rows = generate(PRETRAINING_PROBLEMS, PRETRAINING_SEED, "pretraining")
    with _deterministic(STUDENT_SCHEDULES[0].seed):
        model = new_student(tokenizer, BALANCING_WEIGHT)
        losses = [pretrain(model, tokenizer, rows, schedule, reporter) for schedule in STUDENT_SCHEDULES]
    measured = _finish(model, tokenizer, folder)
    measured["expert_loads"] = expert_loads(model, tokenizer, generate(HELD_OUT_PROBLEMS, HELD_OUT_SEED))
    schedules = [asdict(schedule) for schedule in STUDENT_SCHEDULES]
    return {
        "schedules": schedules,
        "balancing_weight": BALANCING_WEIGHT,
        "losses": [round(loss, 4) for loss in losses],
        **measured,
    }


def build(folder: Path, reporter: Reporter = SILENT) -> dict[str, Any]:
    """Train both toy models from nothing.

    Args:
        folder: receives `teacher`, `student` (transformers checkpoints with their tokenizers, float32) and
            `toy.json`, the returned report.
        reporter: receives every step.

    Returns:
        The recipe, and the accuracies on held-out problems: greedy and sampled at temperature 1, per subdomain.
        The same numbers come out on the same machine with the same number of threads and version of torch.
    """
    report: dict[str, Any] = {
        "pretraining": {"problems": PRETRAINING_PROBLEMS, "seed": PRETRAINING_SEED, "pool": "pretraining"},
        "held_out": {"problems": HELD_OUT_PROBLEMS, "seed": HELD_OUT_SEED, "pool": "demo"},
        "vocabulary_orders": {"teacher": TEACHER_ORDER, "student": STUDENT_ORDER},
        "torch": {"version": str(torch.__version__), "threads": torch.get_num_threads()},
        "teacher": build_teacher(folder / "teacher", reporter),
        "student": build_student(folder / "student", reporter),
    }
    (folder / "toy.json").write_text(json.dumps(report, indent=2) + "\n")
    return report
