"""Agreement of experts with the clusters of teacher neurons that they came from, against random pairings."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from padd_stages.lib.measures.specialisation import baseline, baseline_json, json_number, relative_activation

Floats = NDArray[np.float64]
# Activations of cluster and expert over tokens, or, without a teacher to run, over the subdomains' means.
Measure = Literal["activations over tokens", "profiles over subdomains"]


def matched_agreement(correlation: ArrayLike, *, draws: int, seed: int) -> tuple[float, Floats]:
    """Compute the mean correlation of experts with their own clusters, and the same under random pairings.

    Args:
        correlation: (N, N) of cluster (row) and expert (column), row j the cluster that expert j came from.

    Returns:
        The mean of the diagonal, and (draws,) means over random pairings.
    """
    matrix = np.asarray(correlation, dtype=np.float64)
    generator, experts = np.random.default_rng(seed), np.arange(len(matrix))
    pairings = [generator.permutation(len(matrix)) for _ in range(draws)]
    return float(matrix.trace() / len(matrix)), np.array([matrix[p, experts].mean() for p in pairings])


def profile_agreement(
    activation: ArrayLike, probabilities: ArrayLike, *, draws: int, seed: int
) -> tuple[float, Floats]:
    """Compute how far experts prefer the subdomains that the clusters they came from prefer.

    Pearson correlation, over subdomains and units, of the two matrices' log2 preferences
    (:func:`relative_activation`); beside it the same under random pairings of experts and clusters.

    Args:
        activation: (S, N) a cluster's mean activation, in expert order.
        probabilities: (S, N) an expert's mean router probability.

    Returns:
        The correlation and (draws,) of random pairings, NaN when fewer than two subdomains have tokens on both sides,
        or fewer than two experts are ever probable.
    """
    clusters, experts = relative_activation(activation), relative_activation(probabilities)
    rows = ~(np.isnan(clusters).all(axis=1) | np.isnan(experts).all(axis=1))
    units = (np.isfinite(clusters) & np.isfinite(experts))[rows].all(axis=0)  # a dead expert prefers nothing
    clusters, experts = clusters[rows][:, units], experts[rows][:, units]
    if min(clusters.shape) < 2 or clusters.std() == 0 or experts.std() == 0:
        return math.nan, np.full(draws, np.nan)
    generator = np.random.default_rng(seed)
    pairings = [generator.permutation(experts.shape[1]) for _ in range(draws)]
    values = [_correlation(clusters, experts[:, pairing]) for pairing in pairings]
    return _correlation(clusters, experts), np.array(values)


def agreement_json(measure: Measure, layers: Sequence[tuple[float, Floats]], tokens: int) -> dict[str, Any]:
    """Return the mean over layers where it is defined, and each layer, each with its random pairings.

    Args:
        layers: (value, (draws,) of random pairings) of each MoE layer.
        tokens: that it was measured on.
    """
    known = [(value, draws) for value, draws in layers if math.isfinite(value)]
    return {
        "measure": measure,
        "tokens": tokens,
        "correlation": float(np.mean([value for value, _ in known])) if known else None,
        "random_pairing": _interval(np.mean([draws for _, draws in known or layers], axis=0)),
        "layers": [
            {"correlation": json_number(value), "random_pairing": _interval(draws)} for value, draws in layers
        ],
    }


def _interval(draws: Floats) -> dict[str, float | None]:
    return baseline_json(baseline(draws))


def _correlation(a: Floats, b: Floats) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])
