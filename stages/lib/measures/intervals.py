"""Bootstrap intervals over problems and runs (docs/METHOD.md, section 6)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

BOOTSTRAP_DRAWS = 2000  # chosen: the ends of a 95 % interval move by under 0.1 of its width between seeds
RESAMPLED_VALUES_AT_ONCE = 1 << 22  # 32 MB of float64


def bootstrap_means(
    values: Floats, *, seed: int = 0, draws: int = BOOTSTRAP_DRAWS, run_seed: int = 0
) -> Floats:
    """Compute the means of resamples with replacement, of problems and, where there are several, of runs.

    Runs and problems are drawn independently of each other (the pigeonhole bootstrap; Owen 2007, 10.1214/07-AOAS122):
    a problem that is drawn counts in every run. Two calls with the same seed and number of problems draw the same
    problems, which keeps models paired, whatever the number of their runs. One run is the bootstrap over problems.

    Args:
        values: (P,) one value a problem, or (S, P) one row a run (a seed of the training).
        seed: of the problems.
        run_seed: of the runs.

    Returns:
        (draws,) float64.
    """
    by_run = np.atleast_2d(values)  # (S, P)
    runs, problems = by_run.shape
    generator = np.random.default_rng(seed)
    per_chunk = max(1, RESAMPLED_VALUES_AT_ONCE // by_run.size)
    means = np.empty((runs, draws))
    for start in range(0, draws, per_chunk):
        stop = min(draws, start + per_chunk)
        picks = generator.integers(problems, size=(stop - start, problems))
        means[:, start:stop] = by_run[:, picks].mean(axis=2)
    # a spawned seed: its stream has nothing to do with that of the problems, even where the two numbers are equal
    generator = np.random.default_rng(np.random.SeedSequence(run_seed, spawn_key=(1,)))
    chosen = generator.integers(runs, size=(runs, draws))
    return np.take_along_axis(means, chosen, axis=0).mean(axis=0)


def bootstrap_interval(
    values: ArrayLike, *, seed: int = 0, draws: int = BOOTSTRAP_DRAWS, level: float = 0.95
) -> tuple[float, float]:
    """Compute the percentile bootstrap interval of the mean over problems.

    Args:
        values: (n,) one value a problem: 0 or 1, or the share of its samples that are right.
        seed: of the resampling.
        draws: number of resamples.
        level: coverage, in (0, 1).

    Returns:
        (low, high). With one value, or equal values, both are that value: the interval is then without meaning.

    Raises:
        ValueError: no values, not one axis, a value that is not finite, or a level outside (0, 1).
    """
    array = _checked(values)
    return _percentiles(bootstrap_means(array, seed=seed, draws=draws), level)


def percentile_interval(draws: Sequence[float] | Floats, *, level: float = 0.95) -> tuple[float, float]:
    """Compute the central interval that holds ``level`` of the draws.

    Args:
        draws: (n,) at least one.
    """
    return _percentiles(np.asarray(draws, dtype=np.float64), level)


def _checked(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(
            f"values have shape {array.shape}; one value a problem and at least one problem is needed"
        )
    if not np.isfinite(array).all():
        raise ValueError("values hold a number that is not finite")
    return array


def _percentiles(draws: Floats, level: float) -> tuple[float, float]:
    if not 0.0 < level < 1.0:
        raise ValueError(f"level is {level}; it must lie between 0 and 1")
    tail = 100.0 * (1.0 - level) / 2.0
    low, high = np.percentile(draws, [tail, 100.0 - tail])
    return float(low), float(high)
