"""Clustering of one teacher layer, from its rows to the centroids that make the router; all layers on processes."""

import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from padd_stages.cluster.balanced import Rows, balanced_kmeans, centroids_of, random_balanced
from padd_stages.cluster.options import ClusterOptions
from padd_stages.cluster.quality import Quality, assess
from padd_stages.lib.models.ffn import FFNReader
from padd_stages.lib.runtime.seeds import generator_for


@dataclass(frozen=True)
class LayerClusters:
    """Clusters of one layer: assignment (d_ff,) int32; centroids (N, d_T) fp32, see :func:`cluster_layer`.

    iterations: of k-means. seconds: wall time of the clustering and of the quality pass.
    """

    assignment: NDArray[np.int32]
    centroids: Rows
    quality: Quality
    iterations: int
    seconds: dict[str, float]

    def save(self, folder: Path, layer: int) -> None:
        """Write a layer's two files, the JSON last, by rename: where it exists, the layer is complete."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors, numbers = _layer_files(folder, layer)
        save_file({"assignment": self.assignment, "centroids": self.centroids}, tensors)
        temporary = numbers.with_suffix(".tmp")
        values = {"quality": asdict(self.quality), "iterations": self.iterations, "seconds": self.seconds}
        temporary.write_text(json.dumps(values), encoding="utf-8")
        os.replace(temporary, numbers)

    @classmethod
    def load(cls, folder: Path, layer: int) -> "LayerClusters | None":
        """Read the files that :meth:`save` wrote; None if the layer is not complete."""
        tensors, numbers = _layer_files(folder, layer)
        if not numbers.is_file():
            return None
        arrays, values = load_file(tensors), json.loads(numbers.read_text(encoding="utf-8"))
        return cls(
            arrays["assignment"],
            arrays["centroids"],
            Quality(**values["quality"]),
            values["iterations"],
            values["seconds"],
        )


def _layer_files(folder: Path, layer: int) -> tuple[Path, Path]:
    return folder / f"{layer:03d}.safetensors", folder / f"{layer:03d}.json"


@dataclass(frozen=True)
class LayerJobs:
    """Everything that a process needs to cluster a layer.

    teacher: the checkpoint's folder. results: folder of the finished layers. profiles: folder of activation profiles
    (:func:`~padd_stages.cluster.pair_statistics.write_profiles`) to compare neurons by; None compares their weights.
    """

    teacher: Path
    results: Path
    clusters: int
    options: ClusterOptions
    profiles: Path | None

    def run(self, layers: Sequence[int]) -> Iterator[int]:
        """Cluster layers, ``options.processes`` at a time; yield each when its result is on disk."""
        processes = min(self.options.processes, len(layers))
        if processes <= 1:
            yield from map(self.cluster, layers)
            return
        threads = max(1, (os.cpu_count() or 1) // processes)
        pool = Parallel(n_jobs=processes, return_as="generator_unordered", inner_max_num_threads=threads)
        yield from cast(Iterator[int], pool(delayed(self.cluster)(layer) for layer in layers))

    def cluster(self, layer: int) -> int:
        """Cluster one layer and write its result."""
        reader = FFNReader(self.teacher)
        rows = reader.rows(layer, self.options.weights)
        profile = None if self.profiles is None else read_profile(self.profiles, layer, reader.width)
        cluster_layer(rows, self.clusters, layer, reader.hidden, self.options, profile).save(
            self.results, layer
        )
        return layer


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
    started = time.monotonic()
    rows = normalise(rows) if options.normalize else rows
    features = rows if profile is None else _centred(profile, options.normalize)
    seed, other_seed, chance_seed = (
        int(generator_for(options.seed, purpose, layer).integers(2**31 - 1024))
        for purpose in ("cluster", "stability", "chance")
    )
    assignment, iterations = _partition(features, clusters, seed, options)
    centroids = centroids_of(np.ascontiguousarray(rows[:, :hidden]), assignment, clusters)
    clustered = time.monotonic()
    other = None
    if options.stability and options.assign == "kmeans":
        other, _ = _partition(features, clusters, other_seed, options)
    quality = assess(features, assignment, clusters, seed=chance_seed, other=other)
    seconds = {"clustering": clustered - started, "quality": time.monotonic() - clustered}
    return LayerClusters(assignment, centroids, quality, iterations, seconds)


def _partition(
    features: Rows, clusters: int, seed: int, options: ClusterOptions
) -> tuple[NDArray[np.int32], int]:
    """Partition the neurons as the options say; return the clusters (n,) and the number of iterations."""
    if options.assign == "random":
        return random_balanced(len(features), clusters, seed), 0
    found = balanced_kmeans(
        features,
        clusters,
        seed=seed,
        iterations=options.iterations,
        restarts=options.restarts,
        tolerance=options.tolerance,
    )
    return found.assignment, len(found.history)


def normalise(rows: Rows) -> Rows:
    """Scale rows (n, d) to length 1; rows of zeros stay."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    norms[norms == 0] = 1
    return rows / norms


def _centred(profile: Rows, normalize: bool) -> Rows:
    """Centre each neuron's activations on its own mean: co-variation counts, not magnitude."""
    centred = profile - profile.mean(axis=1, keepdims=True)
    return normalise(centred) if normalize else centred


def profile_file(folder: Path, layer: int) -> Path:
    """Return the path of a layer's activation profile, fp32 (tokens, d_ff) row by row."""
    return folder / f"{layer:03d}.f32"


def read_profile(folder: Path, layer: int, width: int) -> Rows:
    """Read |activation| of every neuron of a layer, (d_ff, tokens)."""
    flat = np.fromfile(profile_file(folder, layer), dtype=np.float32)
    return np.ascontiguousarray(flat.reshape(-1, width).T)
