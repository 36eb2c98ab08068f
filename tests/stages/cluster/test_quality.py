"""Quality numbers against slow versions, and verdicts on data whose structure is known."""

import numpy as np
import pytest

from padd_stages.cluster.balanced import balanced_kmeans, centroids_of, random_balanced
from padd_stages.cluster.quality import (
    assess,
    explained_variance,
    selectivity,
    simplified_silhouette,
    verdict,
)


def noise(n=240, d=17, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def grouped(n=240, d=17, groups=6, distance=8.0):
    rng = np.random.default_rng(1)
    centres = distance * rng.standard_normal((groups, d)) / np.sqrt(d)
    return (centres[np.arange(n) % groups] + rng.standard_normal((n, d)) + 5).astype(np.float32)


def test_explained_variance_matches_the_definition():
    rows, assignment = grouped(), random_balanced(240, 6, 3)
    within = sum(((rows[assignment == j] - rows[assignment == j].mean(0)) ** 2).sum() for j in range(6))
    total = ((rows - rows.mean(0)) ** 2).sum()
    assert explained_variance(rows, assignment, 6) == pytest.approx(1 - within / total, rel=1e-4)


def test_simplified_silhouette_matches_the_definition():
    rows, assignment = grouped(n=60), random_balanced(60, 5, 3)
    centroids = centroids_of(rows, assignment, 5)
    values = []
    for row, own in zip(rows, assignment):
        distances = np.linalg.norm(row - centroids, axis=1)
        a, b = distances[own], min(d for j, d in enumerate(distances) if j != own)
        values.append((b - a) / max(a, b))
    assert simplified_silhouette(rows, assignment, centroids) == pytest.approx(np.mean(values), abs=1e-5)


def test_random_partitions_explain_what_counting_says():
    """For rows without structure a random partition explains (N - 1) / (n - 1) on average."""
    quality = assess(noise(), random_balanced(240, 6, 9), 6, seed=0)
    assert quality.random_mean == pytest.approx(5 / 239, rel=0.2)
    assert quality.verdict.endswith("no structure beyond chance")


def test_structure_is_seen_where_there_is_some():
    rows = grouped()
    first, second = (balanced_kmeans(rows, 6, seed=s, restarts=4).assignment for s in (0, 100))
    quality = assess(rows, first, 6, seed=0, other=second)
    assert quality.explained > 0.5
    assert quality.silhouette > 0.3
    assert quality.stability == pytest.approx(1.0)
    assert quality.verdict.endswith("clear structure")
    assert (quality.smallest, quality.largest) == (40, 40)


def test_stability_of_random_partitions_is_near_zero():
    rows = noise()
    quality = assess(rows, random_balanced(240, 6, 1), 6, seed=0, other=random_balanced(240, 6, 2))
    assert abs(quality.stability) < 0.05
    assert assess(rows, random_balanced(240, 6, 1), 6, seed=0).stability is None


def test_degenerate_rows_give_finite_numbers():
    same = np.ones((12, 4), np.float32)
    quality = assess(same, random_balanced(12, 3, 0), 3, seed=0)
    assert (quality.explained, quality.random_mean, quality.silhouette) == (0.0, 0.0, 0.0)
    assert assess(noise(n=9), np.zeros(9, np.int32), 1, seed=0).silhouette == 0.0


def test_selectivity_by_hand():
    """Shares of the first cluster are 1/2 and 1, of the second 3/2 and 1: spreads of log2(2) / 2, log2(3/2) / 2."""
    h = np.array([[1.0, 3.0], [2.0, 2.0]])
    expected = (1 + np.log2(1.5)) / 4
    assert selectivity(h) == pytest.approx(expected)
    assert selectivity(h * [[7.0], [0.1]]) == pytest.approx(expected), "loud subdomains count"
    assert selectivity(np.outer([1.0, 5.0, 2.0], [3.0, 1.0])) == pytest.approx(0.0)


def test_selectivity_where_it_cannot_be_told():
    assert selectivity([[1.0, 2.0]]) is None
    assert selectivity([[0.0, 1.0], [1.0, 0.0]]) is None
    silent = np.array([[1.0, 0.0, 2.0], [2.0, 0.0, 1.0]])
    assert selectivity(silent) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("explained", "chance", "spread", "words"),
    [
        (0.028, 0.011, 0.0002, "clusters explain 2.8 % of the variance, random 1.1 %: weak structure"),
        (
            0.011,
            0.0108,
            0.0002,
            "clusters explain 1.1 % of the variance, random 1.1 %: no structure beyond chance",
        ),
        (0.40, 0.011, 0.0002, "clusters explain 40.0 % of the variance, random 1.1 %: clear structure"),
    ],
)
def test_verdict_in_words(explained, chance, spread, words):
    assert verdict(explained, chance, spread) == words
