"""Balanced k-means: sizes, optimality of the assignment, quality against min-cost flow, determinism."""

import os
import subprocess
import sys

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from k_means_constrained import KMeansConstrained
from scipy.optimize import linprog
from scipy.sparse import eye, kron, vstack

from padd_artifacts.errors import PaddError
from padd_stages.cluster import transport
from padd_stages.cluster.balanced import (
    balanced_kmeans,
    centroids_of,
    random_balanced,
    squares_around_mean,
    squares_between,
)
from padd_stages.cluster.transport import assign


def gaussian(n: int, d: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (
        0.4 * rng.standard_normal((n, 5)) @ rng.standard_normal((5, d)) + rng.standard_normal((n, d))
    ).astype(np.float32)


def objective(rows: np.ndarray, assignment: np.ndarray, clusters: int) -> float:
    """The sum of squared distances, the obvious way."""
    rows = rows.astype(np.float64)
    return sum(
        ((rows[assignment == j] - rows[assignment == j].mean(axis=0)) ** 2).sum() for j in range(clusters)
    )


def best_score(scores: np.ndarray) -> float:
    """The optimum of the transport problem, by linear programming."""
    n, clusters = scores.shape
    once = kron(eye(n), np.ones((1, clusters)))
    sizes = kron(np.ones((1, n)), eye(clusters))
    bounds = np.concatenate([np.full(clusters, -(-n // clusters)), np.full(clusters, -(n // clusters))])
    found = linprog(
        -scores.ravel().astype(np.float64),
        A_ub=vstack([sizes, -sizes]),
        b_ub=bounds,
        A_eq=once,
        b_eq=np.ones(n),
    )
    return -found.fun


@pytest.mark.parametrize(
    ("n", "clusters", "skew"),
    [(12, 4, 0), (48, 6, 3), (13, 4, 0), (50, 7, 5), (9, 1, 0), (11, 11, 2), (40, 39, 1), (60, 8, 100)],
)
def test_assignment_is_the_optimum_of_the_transport_problem(n, clusters, skew):
    rng = np.random.default_rng(n + skew)
    for _ in range(5):
        scores = (rng.standard_normal((n, clusters)) + skew * rng.standard_normal(clusters)).astype(
            np.float32
        )
        chosen = assign(scores).clusters
        sizes = np.bincount(chosen, minlength=clusters)
        assert sizes.max() - sizes.min() <= (1 if n % clusters else 0)
        assert scores[np.arange(n), chosen].sum(dtype=np.float64) == pytest.approx(
            best_score(scores), rel=1e-6, abs=1e-5
        )


@pytest.mark.parametrize("n", [6000, 6005])
def test_straight_moves_of_a_few_rows_stay_near_the_optimum(n, monkeypatch):
    rng = np.random.default_rng(n)
    scores = (rng.standard_normal((n, 16)) + rng.standard_normal(16)).astype(np.float32)
    straight, move = [], transport._Repair._cheapest_move
    monkeypatch.setattr(transport._Repair, "_cheapest_move", lambda self: (straight.append(1), move(self))[1])
    found = assign(scores).clusters
    assert straight
    assert set(np.bincount(found)) <= {n // 16, -(-n // 16)}
    monkeypatch.setattr(transport, "REPAIR_SHARE", 0.0)  # chains only: the optimum
    optimum = assign(scores).clusters
    totals = [scores[np.arange(n), chosen].sum(dtype=np.float64) for chosen in (found, optimum)]
    assert totals[1] - 1e-4 * abs(totals[1]) <= totals[0] <= totals[1]


def test_prices_are_a_warm_start_that_changes_nothing():
    scores = np.random.default_rng(1).standard_normal((300, 10)).astype(np.float32)
    scores[:, 3] += 2
    cold = assign(scores)
    warm = assign(scores, cold.prices)
    assert np.array_equal(cold.clusters, warm.clusters)
    assert cold.prices.argmax() == 3


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 40),
    clusters=st.integers(1, 40),
    d=st.integers(1, 5),
    distinct=st.integers(1, 6),
    scale=st.sampled_from([1.0, 1e-6, 1e4]),
    seed=st.integers(0, 99),
)
def test_sizes_are_exact_and_the_objective_never_rises(n, clusters, d, distinct, scale, seed):
    clusters = min(n, clusters)
    rng = np.random.default_rng(seed)
    pool = (rng.standard_normal((distinct, d)) * scale).astype(np.float32)
    rows = pool[rng.integers(0, distinct, n)]
    found = balanced_kmeans(rows, clusters, seed=seed, tolerance=0.0)
    sizes = np.bincount(found.assignment, minlength=clusters)
    assert sizes.sum() == n
    assert set(sizes) <= {n // clusters, -(-n // clusters)}
    assert list(found.history) == sorted(found.history, reverse=True)
    total = squares_around_mean(rows)
    assert found.objective == pytest.approx(
        objective(rows, found.assignment, clusters), rel=1e-4, abs=1e-5 * total + 1e-5 * scale**2
    )


@pytest.mark.parametrize("clusters", [1, 7, 24, 48])
def test_identical_rows_and_one_row_a_cluster(clusters):
    found = balanced_kmeans(np.full((48, 3), 2.5, np.float32), clusters, seed=0)
    sizes = np.bincount(found.assignment, minlength=clusters)
    assert sizes.max() - sizes.min() <= 1
    assert found.objective == pytest.approx(0.0, abs=1e-6)
    if clusters == 48:
        assert balanced_kmeans(gaussian(48, 5), 48, seed=0).objective == pytest.approx(0.0, abs=1e-4)


def test_well_separated_groups_are_found():
    rng = np.random.default_rng(3)
    centres = rng.standard_normal((6, 9)) * 20
    truth = rng.permutation(np.repeat(np.arange(6), 35))
    rows = (centres[truth] + rng.standard_normal((210, 9))).astype(np.float32)
    found = balanced_kmeans(rows, 6, seed=0, restarts=8)
    for j in range(6):
        assert len(set(found.assignment[truth == j])) == 1


@pytest.mark.parametrize(("n", "d", "clusters"), [(480, 36, 16), (700, 24, 10), (455, 30, 12)])
def test_as_good_as_min_cost_flow_from_the_same_start(n, d, clusters):
    rows = gaussian(n, d)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    ours, theirs = [], []
    for seed in range(3):
        start = rows[np.random.default_rng(seed).choice(n, clusters, replace=False)]
        ours.append(
            balanced_kmeans(rows, clusters, seed=0, init=start, iterations=100, tolerance=0.0).objective
        )
        reference = KMeansConstrained(
            clusters,
            size_min=n // clusters,
            size_max=-(-n // clusters),
            init=start,
            n_init=1,
            max_iter=100,
            tol=0,
            n_jobs=1,
        )
        labels = reference.fit_predict(rows.astype(np.float64))
        theirs.append(objective(rows, labels, clusters))
    # Ours sees what an exchange does to both centroids and goes on where plain k-means stops.
    assert np.mean(ours) < np.mean(theirs)
    assert max(np.array(ours) / np.array(theirs)) <= 1.001


def test_restarts_keep_the_best():
    rows = gaussian(160, 7)
    runs = [balanced_kmeans(rows, 8, seed=s, tolerance=0.0).objective for s in range(5, 8)]
    assert balanced_kmeans(rows, 8, seed=5, restarts=3, tolerance=0.0).objective == min(runs)
    assert len(set(runs)) > 1


def test_centroids_and_sums_of_squares_match_the_obvious_versions():
    rows = gaussian(90, 11) + 3
    assignment = random_balanced(90, 7, 0)
    centroids = centroids_of(rows, assignment, 7)
    for j in range(7):
        np.testing.assert_allclose(centroids[j], rows[assignment == j].mean(axis=0), rtol=1e-5, atol=1e-6)
    total = ((rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)) ** 2).sum()
    assert squares_around_mean(rows) == pytest.approx(total, rel=1e-6)
    assert total - squares_between(assignment, centroids) == pytest.approx(
        objective(rows, assignment, 7), rel=1e-6
    )


def test_random_partitions_are_balanced_and_differ_by_seed():
    first, second = random_balanced(50, 8, 0), random_balanced(50, 8, 1)
    assert set(np.bincount(first)) == {6, 7}
    assert not np.array_equal(first, second)
    assert np.array_equal(first, random_balanced(50, 8, 0))


def test_impossible_requests_are_refused():
    with pytest.raises(PaddError, match="12 neurons cannot form 13 clusters"):
        balanced_kmeans(gaussian(12, 3), 13, seed=0)
    broken = gaussian(12, 3)
    broken[4, 1] = np.nan
    with pytest.raises(PaddError, match="NaN"):
        balanced_kmeans(broken, 3, seed=0)


def test_faiss_threads_change_no_bit():
    rows = gaussian(5000, 64)
    threads = faiss.omp_get_max_threads()
    results = []
    try:
        for count in (1, 2):
            faiss.omp_set_num_threads(count)
            results.append(balanced_kmeans(rows, 20, seed=4, iterations=5))
    finally:
        faiss.omp_set_num_threads(threads)
    assert np.array_equal(results[0].assignment, results[1].assignment)
    assert np.array_equal(results[0].centroids, results[1].centroids)


DIGEST_SCRIPT = """
import hashlib, numpy as np
from padd_stages.cluster.balanced import balanced_kmeans
rows = np.random.default_rng(0).standard_normal((4500, 48)).astype(np.float32)
found = balanced_kmeans(rows, 30, seed=1, iterations=6)
print(hashlib.sha256(found.assignment.tobytes() + found.centroids.tobytes()).hexdigest())
"""


def test_the_same_bytes_whatever_the_environment_says_of_threads():
    digests = set()
    for threads in ("1", "2"):
        variables = {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        run = subprocess.run(
            [sys.executable, "-c", DIGEST_SCRIPT],
            env=os.environ | variables,
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(run.stdout.strip())
    assert len(digests) == 1
