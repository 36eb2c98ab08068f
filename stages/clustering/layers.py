"""One teacher layer's clusters, from its rows to the centroids that the router is made of."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from padd_stages.clustering.balanced import Rows, balanced_kmeans, centroids_of, random_balanced
from padd_stages.clustering.quality import Quality, assess
from padd_stages.options.cluster import ClusterOptions
from padd_stages.runtime.seeds import generator_for


@dataclass(frozen=True)
class LayerClusters:
    """assignment (d_ff,) int32; centroids (N, d_T) fp32, see :func:`cluster_layer`; iterations of k-means."""

    assignment: NDArray[np.int32]
    centroids: Rows
    quality: Quality
    iterations: int


def cluster_layer(
    rows: Rows, clusters: int, layer: int, hidden: int, options: ClusterOptions, profile: Rows | None = None
) -> LayerClusters:
    """Cluster a layer's neurons.

    Args:
        rows: (d_ff, d_T) weights, or (d_ff, 2 d_T) for gate+up.
        clusters: N.
        layer: teacher layer, part of the key of its seed.
        hidden: d_T.
        profile: (d_ff, tokens) activations to cluster by instead of the weights.

    The centroids are means of the *weight* rows as normalised, whatever the neurons were compared by, because the
    router is a linear function of hidden states; of gate+up rows, the gate's half.
    """
    rows = normalise(rows) if options.normalize else rows
    features = rows if profile is None else _centred(profile, options.normalize)
    seed, other_seed, chance_seed = (
        int(generator_for(options.seed, purpose, layer).integers(2**31 - 1024))
        for purpose in ("cluster", "stability", "chance")
    )
    other, iterations = None, 0
    if options.assign == "random":
        assignment = random_balanced(len(rows), clusters, seed)
    else:
        found = balanced_kmeans(
            features,
            clusters,
            seed=seed,
            iterations=options.iterations,
            restarts=options.restarts,
            tolerance=options.tolerance,
        )
        assignment, iterations = found.assignment, len(found.history)
        if options.stability:
            other = balanced_kmeans(
                features,
                clusters,
                seed=other_seed,
                iterations=options.iterations,
                restarts=options.restarts,
                tolerance=options.tolerance,
            ).assignment
    quality = assess(features, assignment, clusters, seed=chance_seed, other=other)
    centroids = centroids_of(np.ascontiguousarray(rows[:, :hidden]), assignment, clusters)
    return LayerClusters(assignment, centroids, quality, iterations)


def normalise(rows: Rows) -> Rows:
    """Rows (n, d) of length 1; rows of zeros stay."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    norms[norms == 0] = 1
    return rows / norms


def _centred(profile: Rows, normalize: bool) -> Rows:
    """Each neuron's activations around its own mean: what rises and falls together counts, not what is loud."""
    centred = profile - profile.mean(axis=1, keepdims=True)
    return normalise(centred) if normalize else centred
