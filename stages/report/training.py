"""Training logs of each method: curves, Router-shift, and load by layer, over its seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from padd_artifacts.artifact import Artifact
from padd_stages.lib.measures.seed_bands import Band, Rows, numbers, seed_band, t_half_width
from padd_stages.lib.runtime.metrics_log import METRICS, ROUTING, TIMINGS
from padd_stages.report.runs import RunArtifacts, is_warmup
from padd_stages.train.curve_figures import CURVES, Runs, drawable_curves
from padd_stages.train.router_shift_figures import Ecdf, ecdfs

Floats = NDArray[np.float64]


SHIFT = "router_shift"
LAST_MEASURED = 5  # rollouts that Figure 5 pools: chosen, near the last steps and enough tokens for its tail


@dataclass(frozen=True)
class Training:
    """Logs of every method that has some: the rows of each seed, empty where a run has no such log."""

    metrics: dict[str, list[Rows]]
    routing: dict[str, list[Rows]]
    timings: dict[str, list[Rows]]

    @property
    def shift_bands(self) -> dict[str, Band | None]:
        """Mean Router-shift against the step (Figure 4), for all methods, so that each keeps its colour."""
        return {
            name: seed_band([_shift_means(run) for run in runs], SHIFT, smooth=True)
            for name, runs in self.routing.items()
        }

    @property
    def shift_distributions(self) -> dict[str, Ecdf | None]:
        """Router-shift over the tokens of the last measured rollouts (Figure 5)."""
        measured = {
            name: [q for run in runs if (q := _quantiles(run))] for name, runs in self.routing.items()
        }
        found = (
            ecdfs({name: seeds for name, seeds in measured.items() if seeds})
            if any(measured.values())
            else {}
        )
        return {name: found.get(name) for name in self.routing}

    @property
    def shift_at_kl(self) -> dict[str, tuple[Floats, Floats]]:
        """Policy KL (P,) and Router-shift (P,) of every rollout of every seed that has both, by method."""
        found = {}
        for name, runs in self.routing.items():
            pairs = [
                (kl[row["step"]], row[SHIFT])
                for metrics, rows in zip(self.metrics[name], runs, strict=True)
                for kl in [numbers(metrics, "policy_kl")]
                for row in _shift_means(rows)
                if row["step"] in kl
            ]
            found[name] = tuple(np.array(pairs, dtype=np.float64).reshape(-1, 2).T)
        return found

    def layer_values(self, name: str) -> dict[str, tuple[Floats, Floats]]:
        """Return a measure of every layer over training, mean over seeds, by method: steps (T,) and values (T, L)."""
        return {
            method: found
            for method, runs in self.routing.items()
            if (found := _by_layer(runs, name)) is not None
        }

    def mean_over_last(self, method: str, metric: str, rollouts: int) -> tuple[float, float] | None:
        """Compute a metric's mean over the last rollouts and seeds, and half its 95 % interval (NaN for one seed)."""
        means = [
            float(np.mean(values))
            for rows in self.metrics[method]
            if (values := [row[metric] for row in rows[-rollouts:] if row.get(metric) is not None])
        ]
        return (float(np.mean(means)), float(t_half_width(np.array(means)))) if means else None

    def as_json(self) -> dict[str, Any]:
        """Return curves by metric and method, Router-shift, and load by layer."""
        bands = {
            curve.metric: {method: seed_band(rows, curve.metric) for method, rows in self.metrics.items()}
            for curve in drawable_curves(self.metrics, CURVES)
        }
        return {
            "curves": {metric: _bands_json(found) for metric, found in bands.items()},
            "router_shift": _bands_json(
                {
                    name: seed_band([_shift_means(run) for run in runs], SHIFT)
                    for name, runs in self.routing.items()
                }
            ),
            "router_shift_last": {
                name: {"quantiles": {str(share): x for share, x in ecdf.marked.items()}, "seeds": ecdf.seeds}
                for name, ecdf in self.shift_distributions.items()
                if ecdf is not None
            },
        }


def read_training(artifacts: RunArtifacts) -> Training:
    """Read the logs of all trained students; methods without any are left out."""
    read: dict[str, dict[str, list[Rows]]] = {METRICS: {}, ROUTING: {}, TIMINGS: {}}
    for name, runs in artifacts.methods.items():
        students = [run.student for run in runs if run.student is not None and not is_warmup(run.student)]
        if any(METRICS in student.manifest.files for student in students):
            for log, by_method in read.items():
                by_method[name] = [read_rows(student, log) for student in students]
    return Training(read[METRICS], read[ROUTING], read[TIMINGS])


def read_rows(artifact: Artifact, name: str) -> list[dict[str, Any]]:
    """Read a log's rows and check its hash; none if the artifact has no such log."""
    if name not in artifact.manifest.files:
        return []
    artifact.check_file(name)
    return artifact.jsonl(name)


def warmup_runs(warmups: Sequence[Artifact]) -> Runs:
    """Read the logs of warmups as runs of curves, one method a warmup."""
    names = ["warmup"] if len(warmups) == 1 else [str(warmup.path) for warmup in warmups]
    return {
        name: [rows]
        for name, warmup in zip(names, warmups, strict=True)
        if (rows := read_rows(warmup, METRICS))
    }


def _shift_means(rows: Rows) -> list[dict[str, Any]]:
    return [{"step": row["step"], SHIFT: row[SHIFT]["mean"]} for row in rows if row.get(SHIFT)]


def _quantiles(rows: Rows) -> tuple[Floats, Floats] | None:
    """Return the (R, Q) quantiles and (R,) tokens of the last measured rollouts."""
    shifts = [row[SHIFT] for row in rows if row.get(SHIFT) and None not in row[SHIFT]["quantiles"]][
        -LAST_MEASURED:
    ]
    if not shifts:
        return None
    return np.array([s["quantiles"] for s in shifts], dtype=np.float64), np.array(
        [s["tokens"] for s in shifts], dtype=np.float64
    )


def _by_layer(runs: Sequence[Rows], name: str) -> tuple[Floats, Floats] | None:
    series = [{row["step"]: row[name] for row in rows if name in row} for rows in runs if rows]
    steps = sorted(set.intersection(*(set(s) for s in series))) if series else []
    if not steps:
        return None
    values = np.array([[s[step] for step in steps] for s in series], dtype=np.float64)  # (S, T, L)
    return np.array(steps, dtype=np.float64), values.mean(axis=0)


def _bands_json(bands: Mapping[str, Band | None]) -> dict[str, Any]:
    return {name: band.as_json() for name, band in bands.items() if band is not None}
