"""Quality of a clustering: whether Stage I has any structure to work with."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import adjusted_rand_score

from padd_stages.cluster.balanced import (
    Rows,
    centroids_of,
    products,
    random_balanced,
    squares_around_mean,
    squares_between,
)
from padd_stages.lib.measures.specialisation import relative_activation

# docs/METHOD.md, section 2, asks for five.
RANDOM_PARTITIONS = 5
# Chosen: below this many standard deviations over random partitions nothing was found ...
NOTICEABLE_SPREADS = 4.0
# ... and below this share of the variance beyond random the structure is called weak. SmolLM2's layers (1.7 points)
# are weak, rows drawn around distinct centres lie far above.
CLEAR_SHARE = 0.10


@dataclass(frozen=True)
class Quality:
    """Measures of a partition. Shares are of the variance around the mean row, 0 to 1; silhouette and ARI -1 to 1.

    random_mean and random_spread: the share that random balanced partitions explain (mean, standard deviation).
    silhouette: the simplified one, distances to centroids in place of distances to all rows. stability: the adjusted
    Rand index against the clustering of another seed, None where there was none.
    """

    clusters: int
    smallest: int
    largest: int
    explained: float
    random_mean: float
    random_spread: float
    silhouette: float
    stability: float | None
    verdict: str

    def as_json(self) -> dict[str, Any]:
        """Return the fields, floats rounded to six digits after the point."""
        return {key: round(v, 6) if isinstance(v, float) else v for key, v in asdict(self).items()}


def assess(
    rows: Rows,
    assignment: NDArray[np.int32],
    clusters: int,
    *,
    seed: int,
    other: NDArray[np.int32] | None = None,
) -> Quality:
    """Measure a partition (n,) of rows (n, d), taken as they were clustered.

    Args:
        seed: of the random partitions.
        other: the partition (n,) that another seed gave, for the stability.
    """
    total = squares_around_mean(rows)
    centroids = centroids_of(rows, assignment, clusters)
    explained = _share(squares_between(assignment, centroids), total)
    chance = [
        explained_variance(rows, random_balanced(len(rows), clusters, seed + r), clusters, total=total)
        for r in range(RANDOM_PARTITIONS)
    ]
    sizes = np.bincount(assignment, minlength=clusters)
    mean, spread = float(np.mean(chance)), float(np.std(chance, ddof=1))
    return Quality(
        clusters=clusters,
        smallest=int(sizes.min()),
        largest=int(sizes.max()),
        explained=explained,
        random_mean=mean,
        random_spread=spread,
        silhouette=simplified_silhouette(rows, assignment, centroids),
        stability=None if other is None else float(adjusted_rand_score(assignment, other)),
        verdict=verdict(explained, mean, spread),
    )


def explained_variance(
    rows: Rows, assignment: NDArray[np.int32], clusters: int, *, total: float | None = None
) -> float:
    """Compute the share of the variance of rows (n, d) between the clusters; 0 where all rows are alike.

    Args:
        total: :func:`squares_around_mean` of the rows, if it is known already.
    """
    between = squares_between(assignment, centroids_of(rows, assignment, clusters))
    return _share(between, squares_around_mean(rows) if total is None else total)


def simplified_silhouette(rows: Rows, assignment: NDArray[np.int32], centroids: Rows) -> float:
    """Compute the mean over rows of (b - a) / max(a, b): a, b the distances to the own and nearest other centroid.

    0 for a single cluster. Rows (n, d), centroids (N, d).
    """
    if len(centroids) == 1:
        return 0.0
    mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    shifted, offsets = rows - mean, centroids - mean
    squares = (shifted**2).sum(axis=1)[:, None] + (offsets**2).sum(axis=1)
    squares -= 2 * products(shifted, offsets.T)
    distances = np.sqrt(np.maximum(squares, 0))
    everyone = np.arange(len(rows))
    own = distances[everyone, assignment]
    distances[everyone, assignment] = np.inf
    nearest = distances.min(axis=1)
    larger = np.maximum(own, nearest)
    return float(np.mean((nearest - own) / np.where(larger > 0, larger, 1.0)))


def selectivity(activation: ArrayLike) -> float | None:
    """Compute how far clusters prefer subdomains (METHOD.md, section 8): the spread of their relative activation.

    That is the log2 of a cluster's share of the activation on a subdomain over its mean over subdomains; its standard
    deviation over subdomains, then the mean over clusters. 0 is a cluster that is active alike everywhere, 1 a
    factor of two either way. Few tokens of a subdomain raise it, so it is read beside that of random clusters.

    Args:
        activation: (S, N) mean absolute activations h; a subdomain that is loud in all clusters does not count, since
            each row is divided by its mean.

    Returns:
        None with fewer than two subdomains, or where every cluster is silent on some subdomain.
    """
    h = np.asarray(activation, np.float64)
    if len(h) < 2:
        return None
    preference = relative_activation(h / np.maximum(h.mean(axis=1, keepdims=True), np.finfo(np.float64).tiny))
    active = np.isfinite(preference).all(axis=0)
    return float(preference[:, active].std(axis=0).mean()) if active.any() else None


def verdict(explained: float, random_mean: float, random_spread: float) -> str:
    """Describe the shares of :class:`Quality` in one line."""
    excess = explained - random_mean
    if excess <= NOTICEABLE_SPREADS * random_spread:
        strength = "no structure beyond chance"
    else:
        strength = "clear structure" if excess >= CLEAR_SHARE else "weak structure"
    return f"clusters explain {explained:.1%} of the variance, random {random_mean:.1%}: {strength}".replace(
        "%", " %"
    )


def _share(part: float, total: float) -> float:
    return min(1.0, part / total) if total > 0 else 0.0
