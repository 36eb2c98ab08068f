"""What a run writes down: metrics, samples and timings a step, and a report at the end."""

import json
import time
from pathlib import Path
from typing import Any

from padd_stages.objectives.drift import stage3_state
from padd_stages.options.train import TrainOptions
from padd_stages.rollout.collect import Rollout
from padd_stages.runtime.metrics import append_jsonl, finite

METRICS, SAMPLES, TIMINGS = "metrics.jsonl", "samples.jsonl", "timings.jsonl"
LOGS = [METRICS, SAMPLES, TIMINGS]  # timings are volatile: outside the digest
REPORT_STEPS = 20  # the last rollouts that the report's means are taken over


class Clock:
    """Seconds of each part of a step."""

    def __init__(self) -> None:
        self._started = self._last = time.monotonic()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """Close the part that has run since the last call."""
        now = time.monotonic()
        self.laps[f"seconds/{name}"] = round(now - self._last, 4)
        self._last = now

    @property
    def total(self) -> float:
        """Seconds since the start."""
        return max(time.monotonic() - self._started, 1e-9)


def log_step(
    folder: Path, step: int, metrics: dict[str, float], rollout: Rollout, clock: Clock, options: TrainOptions
) -> str:
    """Append a step to the logs; returns the console line."""
    tokens = sum(len(sequence.response_ids) for sequence in rollout.sequences)
    rate = tokens / clock.total
    append_jsonl(folder / METRICS, [finite({"step": step} | metrics)])
    append_jsonl(folder / TIMINGS, [{"step": step, "tokens_per_second": round(rate, 1)} | clock.laps])
    append_jsonl(folder / SAMPLES, rollout.table(step, options.log_samples))
    loss = metrics["policy_loss"] + options.kd_weight * metrics.get("kd/loss", 0.0)
    parts = [f"reward {metrics['reward']:.3f}", f"loss {loss:.4f}", f"kl {metrics['policy_kl']:.4f}"]
    if "kd/kl" in metrics:
        parts.append(f"kd {metrics['kd/kl']:.3f}")
    if "drift/gamma_all_mean" in metrics:
        parts.append(f"drift {metrics['drift/gamma_all_mean']:.4f} w {metrics['drift/weight_mean']:.2f}")
    clipped = metrics["clip_ratio/low_mean"] + metrics["clip_ratio/high_mean"]
    return " ".join([*parts, f"clip {clipped:.1%}", f"{rate:.0f} tok/s"])


def final_report(folder: Path, options: TrainOptions) -> dict[str, Any]:
    """Means over the last rollouts, and Stage III's label (docs/METHOD.md, section 4)."""
    with (folder / METRICS).open(encoding="utf-8") as handle:
        rows = [json.loads(line) for line in handle]
    recent = rows[-REPORT_STEPS:]
    names = ("reward", "accuracy", "policy_kl", "kd/kl", "drift/weight_mean", "load/max_vio", "entropy")
    report: dict[str, Any] = {"rollouts": len(rows), "mean_over_last": len(recent)}
    for name in names:
        values = [row[name] for row in recent if row.get(name) is not None]
        if values:
            report[name] = sum(values) / len(values)
    if "drift/weight_mean" in report:
        active = options.drift_lambda > 0
        report["stage3"] = stage3_state(report["drift/weight_mean"]) if active else "off"
    report["skipped_updates"] = rows[-1]["skipped_updates"] if rows else 0
    return report
