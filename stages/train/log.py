"""Logs of a run: metrics, samples and timings a step, and a report at the end."""

import json
import math
import time
from pathlib import Path
from typing import Any

import torch

from padd_stages.lib.models.loading import LanguageModel
from padd_stages.lib.objectives.drift import ACTIVE_RANGE, stage3_state
from padd_stages.lib.planning.gpus import GIB
from padd_stages.lib.runtime.metrics_log import METRICS, ROUTING, SAMPLES, TIMINGS, append_jsonl, finite
from padd_stages.train.old_policy import SAMPLER_DIFFERENCE
from padd_stages.train.options import TrainOptions
from padd_stages.train.rollout import Rollout

LOGS = [METRICS, ROUTING, SAMPLES, TIMINGS]  # timings are volatile: outside the digest
LARGEST_DIFFERENCE = 0.05  # chosen: nats; bf16 alone made 0.004 on a GPU
NOISE_ROLLOUTS, LEAST_COSINE = 3, 0.1  # chosen: measurements whose mean counts, and what it must be
REPORT_STEPS = 20  # the last rollouts that the report's means are taken over


class Clock:
    """Stopwatch for the parts of a step, in seconds; on a GPU also their peak memory, in GiB."""

    def __init__(self, device: torch.device) -> None:
        self._gpu = device if device.type == "cuda" else None
        self._started = self._last = time.monotonic()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """Record the seconds since the last call under ``name``, and the peak memory since then."""
        if self._gpu is not None:
            torch.cuda.synchronize(self._gpu)
            self.laps[f"gib/{name}"] = round(torch.cuda.max_memory_allocated(self._gpu) / GIB, 3)
            torch.cuda.reset_peak_memory_stats(self._gpu)
        now = time.monotonic()
        self.laps[f"seconds/{name}"] = round(now - self._last, 4)
        self._last = now

    @property
    def total(self) -> float:
        """Seconds since the start."""
        return max(time.monotonic() - self._started, 1e-9)


def log_step(
    folder: Path,
    step: int,
    metrics: dict[str, float],
    routing: dict[str, Any],
    rollout: Rollout,
    clock: Clock,
    options: TrainOptions,
) -> str:
    """Append a step to the logs and return the console line. ``routing`` is empty for a dense student."""
    tokens = sum(len(sequence.response_ids) for sequence in rollout.sequences)
    rate = tokens / clock.total
    state = _stage3(metrics.get("drift/weight_mean"), options)
    append_jsonl(folder / METRICS, [finite({"step": step} | metrics) | ({"stage3": state} if state else {})])
    if routing:
        append_jsonl(folder / ROUTING, [finite({"step": step} | routing)])
    append_jsonl(folder / TIMINGS, [{"step": step, "tokens_per_second": round(rate, 1)} | clock.laps])
    append_jsonl(folder / SAMPLES, rollout.table(step, options.log_samples))
    loss = metrics["policy_loss"] + options.kd_weight * metrics.get("kd/loss", 0.0)
    loss += options.beta_ref * metrics.get("kl", 0.0)
    parts = [f"reward {metrics['reward']:.3f}", f"loss {loss:.4f}", f"kl {metrics['policy_kl']:.4f}"]
    if "kd/kl" in metrics:
        parts.append(f"kd {metrics['kd/kl']:.3f}")
    if "drift/gamma_all_mean" in metrics:
        parts.append(f"drift {metrics['drift/gamma_all_mean']:.4f} w {metrics['drift/weight_mean']:.2f}")
    clipped = metrics["clip_ratio/low_mean"] + metrics["clip_ratio/high_mean"]
    if state in ("inactive", "saturated"):
        parts.append(f"Stage III {state}")
    return " ".join([*parts, f"clip {clipped:.1%}", f"{rate:.0f} tok/s"])


def _stage3(mean_weight: float | None, options: TrainOptions) -> str | None:
    """Return Stage III's label; ``off`` without lambda, None for a student without a router."""
    if mean_weight is None:
        return None
    return stage3_state(mean_weight) if options.drift_lambda > 0 else "off"


def sampler_warning(metrics: dict[str, float]) -> str | None:
    """Return the warning for a rollout whose sampler is another policy than the one that is trained, else None."""
    mean = metrics[f"{SAMPLER_DIFFERENCE}/mean"]
    if mean <= LARGEST_DIFFERENCE:
        return None
    return (
        f"the sampler's log-probabilities differ by {mean:.3f} nats a token from those that are trained on (largest "
        f"{metrics[f'{SAMPLER_DIFFERENCE}/max']:.3f}), so responses are of another policy and every ratio is biased; "
        "take --dtype float32."
    )


def noise_warning(cosines: list[float]) -> str | None:
    """Return the warning for gradients of halves of a rollout that have little in common, else None."""
    known = [cosine for cosine in cosines[-NOISE_ROLLOUTS:] if math.isfinite(cosine)]
    if len(known) < NOISE_ROLLOUTS or (mean := sum(known) / len(known)) >= LEAST_COSINE:
        return None
    return (
        f"the gradients of two halves of a rollout have a cosine of {mean:.2f} (mean of {len(known)}), so updates are "
        "mostly noise, which costs what the student could before; take more --prompts-per-step, or a lower "
        "--learning-rate."
    )


def unused_balance_loss(student: LanguageModel, options: TrainOptions) -> str | None:
    """Return a note if the student's configuration has a balance loss that this run leaves out."""
    own = getattr(student.model.config, "router_aux_loss_coef", None)
    if student.adapter is None or not own or options.router_aux_loss_coef > 0:
        return None
    return (
        f"the weight of the balance loss is 0; the student's configuration has router_aux_loss_coef {own:g}, which "
        "--router-aux-loss-coef would take"
    )


def stage3_warning(report: dict[str, Any], options: TrainOptions) -> str | None:
    """Return the warning for the end of a run whose Stage III was inactive or saturated, else None."""
    state = report.get("stage3")
    if state not in ("inactive", "saturated"):
        return None
    low, high = ACTIVE_RANGE
    return (
        f"Stage III was {state}: the mean weight of A < 0 tokens over the last {report['mean_over_last']} rollouts is "
        f"{report['drift/weight_mean']:.3f}, outside {low} to {high}, and every table will say so; "
        f"{'raise' if state == 'inactive' else 'lower'} --drift-lambda (now {options.drift_lambda})."
    )


def final_report(folder: Path, options: TrainOptions) -> dict[str, Any]:
    """Compute means over the last rollouts, and Stage III's label (docs/METHOD.md, section 4)."""
    with (folder / METRICS).open(encoding="utf-8") as handle:
        rows = [json.loads(line) for line in handle]
    recent = rows[-REPORT_STEPS:]
    names = ("reward", "accuracy", "policy_kl", "kd/kl", "drift/weight_mean", "load/max_vio", "entropy")
    report: dict[str, Any] = {"rollouts": len(rows), "mean_over_last": len(recent)}
    for name in names:
        values = [row[name] for row in recent if row.get(name) is not None]
        if values:
            report[name] = sum(values) / len(values)
    state = _stage3(report.get("drift/weight_mean"), options)
    if state is not None:
        report["stage3"] = state
    report["skipped_updates"] = rows[-1]["skipped_updates"] if rows else 0
    return report
