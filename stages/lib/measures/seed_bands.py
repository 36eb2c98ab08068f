"""A metric over several runs (seeds) of one method, step by step: its mean and a 95 % interval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Rows = Sequence[Mapping[str, Any]]

STEP_KEY = "step"
LEVEL = 0.95
SMOOTHED_FROM = 20  # steps; below that a running mean says less than the points
SMOOTHING_SHARE = 0.1  # of the steps, the window of the running mean


@dataclass(frozen=True)
class Band:
    """Mean over seeds at the steps that all of them have; ``low`` and ``high`` are NaN for a single seed.

    Attributes:
        steps, mean, low, high: (T,).
        seeds: how many.
    """

    steps: Floats
    mean: Floats
    low: Floats
    high: Floats
    seeds: int

    def as_json(self) -> dict[str, Any]:
        """Return the arrays as lists for JSON, where NaN is null."""
        columns = {name: getattr(self, name) for name in ("steps", "mean", "low", "high")}
        rows = {name: [float(x) if np.isfinite(x) else None for x in xs] for name, xs in columns.items()}
        return rows | {"seeds": self.seeds}


def seed_band(runs: Sequence[Rows], name: str, *, smooth: bool = False) -> Band | None:
    """Compute the band of one metric.

    The interval is Student's t over seeds, mean +- t(S - 1) s / sqrt(S): with three seeds 2.5 standard deviations.

    Args:
        runs: the rows of each seed; those without a number under ``name`` do not count.
        name: of the metric.
        smooth: take a running mean of each seed before the interval, where there are enough steps.

    Returns:
        None if no step has the metric in every run that has it at all.
    """
    series = [found for rows in runs if (found := numbers(rows, name))]
    steps = sorted(set.intersection(*(set(found) for found in series))) if series else []
    if not steps:
        return None
    values = np.array([[found[step] for step in steps] for found in series])  # (S, T)
    if smooth and len(steps) >= SMOOTHED_FROM:
        values = np.stack([running_mean(row, round(SMOOTHING_SHARE * len(steps))) for row in values])
    mean, half = values.mean(axis=0), t_half_width(values)
    return Band(np.array(steps, dtype=np.float64), mean, mean - half, mean + half, len(series))


def t_half_width(values: Floats) -> Floats:
    """Compute half of the 95 % t interval of the mean over the first axis, (S, ...) -> (...); NaN for one row."""
    seeds = len(values)
    if seeds < 2:
        return np.full(values.shape[1:], np.nan)
    quantile = float(stats.t.ppf(0.5 + LEVEL / 2, seeds - 1))
    return quantile * values.std(axis=0, ddof=1) / np.sqrt(seeds)


def numbers(rows: Rows, name: str) -> dict[float, float]:
    """Return a metric's numbers by step, without the rows where it is missing or null."""
    return {row.get(STEP_KEY, i): float(row[name]) for i, row in enumerate(rows) if is_number(row.get(name))}


def is_number(value: Any) -> bool:
    """Return whether a JSON value is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def running_mean(values: Floats, window: int) -> Floats:
    """Compute the mean over a centred window of (n,) values, cut at the ends; window 1 changes nothing."""
    half = max(0, window // 2)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    first = np.maximum(np.arange(len(values)) - half, 0)
    last = np.minimum(np.arange(len(values)) + half + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)
