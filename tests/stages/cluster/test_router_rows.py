"""Ridge map, matching and router rows against slow versions and hand-made cases."""

from itertools import permutations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from padd_artifacts.errors import PaddError
from padd_stages.cluster.pair_statistics import most_active_expert
from padd_stages.cluster.router_rows import blend_rows, map_centroids, match_experts
from padd_stages.lib.measures.correlation import CorrelationSums
from padd_stages.lib.measures.ridge import FitSums, RidgeSums


@pytest.fixture
def tokens():
    rng = torch.Generator().manual_seed(0)
    student = torch.randn(300, 6, generator=rng)
    teacher = student @ torch.randn(6, 9, generator=rng) + 0.3 * torch.randn(300, 9, generator=rng)
    return student, teacher


def test_ridge_from_sums_is_sklearns_ridge_in_one_piece(tokens):
    student, teacher = tokens
    sums = RidgeSums(6, 9)
    for part in (slice(0, 7), slice(7, 180), slice(180, 300)):
        sums.add(student[part], teacher[part])
    penalty = 0.05
    alpha = penalty * float((student.double().T @ student.double()).diagonal().mean())
    reference = Ridge(alpha=alpha, fit_intercept=False).fit(
        student.double().numpy(), teacher.double().numpy()
    )
    mapping = sums.solve(penalty)
    assert mapping.shape == (9, 6)
    np.testing.assert_allclose(mapping.numpy(), reference.coef_, rtol=1e-8)


def test_r_squared_is_sklearns(tokens):
    student, teacher = tokens
    sums = RidgeSums(6, 9)
    sums.add(student[:200], teacher[:200])
    mapping = sums.solve(1e-3)
    fit = FitSums()
    fit.add(mapping, student[200:230], teacher[200:230])
    fit.add(mapping, student[230:], teacher[230:])
    predicted = (student[200:].double() @ mapping.T).numpy()
    expected = r2_score(teacher[200:].double().numpy(), predicted, multioutput="variance_weighted")
    assert fit.r_squared() == pytest.approx(expected, rel=1e-6)
    assert 0.9 < expected < 1
    assert FitSums().r_squared() is None


def test_ridge_without_tokens_is_refused():
    with pytest.raises(PaddError, match="0 tokens"):
        RidgeSums(4, 5).solve(1e-3)


def test_the_mapped_centroid_does_in_the_student_what_it_did_in_the_teacher():
    rng = torch.Generator().manual_seed(1)
    mapping = torch.randn(9, 6, generator=rng, dtype=torch.float64)
    student = torch.randn(50, 6, generator=rng, dtype=torch.float64)
    centroids = torch.randn(4, 9, generator=rng)
    rows = map_centroids(centroids, "ridge", 6, ridge=mapping, seed=0)
    wanted = (student @ mapping.T) @ centroids.double().T
    torch.testing.assert_close(student @ rows.double().T, wanted, rtol=1e-4, atol=1e-4)


def test_the_other_maps():
    centroids = torch.arange(12.0).reshape(2, 6)
    assert map_centroids(centroids, "keep", 4, ridge=None, seed=0) is None
    assert torch.equal(map_centroids(centroids, "truncate", 4, ridge=None, seed=0), centroids[:, :4])
    wider = map_centroids(centroids, "truncate", 8, ridge=None, seed=0)
    assert wider.shape == (2, 8)
    assert torch.equal(wider[:, :6], centroids)
    assert not wider[:, 6:].any()
    wide = torch.randn(3, 400, generator=torch.Generator().manual_seed(0))
    projected = map_centroids(wide, "random-projection", 300, ridge=None, seed=5)
    assert torch.equal(projected, map_centroids(wide, "random-projection", 300, ridge=None, seed=5))
    assert not torch.equal(projected, map_centroids(wide, "random-projection", 300, ridge=None, seed=6))
    # Johnson and Lindenstrauss: lengths are kept, about.
    torch.testing.assert_close(projected.norm(dim=1), wide.norm(dim=1), rtol=0.2, atol=0)


def test_correlation_from_sums_is_numpys():
    rng = np.random.default_rng(2)
    probs = rng.dirichlet(np.ones(5), 200)
    activations = 3 + rng.random((200, 5)) + probs[:, [2, 0, 1, 4, 3]]
    activations[:, 4] = 1.5
    sums = CorrelationSums(5)
    for part in (slice(0, 33), slice(33, 200)):
        sums.add(torch.from_numpy(activations[part]), torch.from_numpy(probs[part]))
    found = sums.correlation()
    with np.errstate(invalid="ignore"):
        expected = np.corrcoef(activations.T, probs.T)[:5, 5:]
    np.testing.assert_allclose(found[:4], expected[:4], atol=1e-9)
    assert not found[4].any()


def test_hungarian_matching_is_the_best_of_all_permutations():
    correlation = np.random.default_rng(7).uniform(-1, 1, (6, 6))
    found = match_experts(correlation, "hungarian")
    best = max(permutations(range(6)), key=lambda p: sum(correlation[p[j], j] for j in range(6)))
    assert tuple(found) == best
    assert found.dtype == np.int32
    assert list(match_experts(correlation, "index")) == list(range(6))


def test_router_rows_are_centred_scaled_to_the_old_rows_and_blended():
    rng = torch.Generator().manual_seed(3)
    old, directions = torch.randn(4, 7, generator=rng) * 5, torch.randn(4, 7, generator=rng)
    order = np.array([2, 0, 3, 1], np.int32)
    rows = blend_rows(old, directions, order, 0.3)
    centre = directions.mean(dim=0)
    for j, cluster in enumerate(order):
        new = directions[cluster] - centre
        new = new / new.norm() * old[j].norm()
        blend = 0.7 * old[j] + 0.3 * new
        torch.testing.assert_close(rows[j], blend / blend.norm() * old[j].norm())
    for omega in (0.3, 1.0):
        torch.testing.assert_close(blend_rows(old, directions, order, omega).norm(dim=1), old.norm(dim=1))
    assert torch.equal(blend_rows(old, directions, order, 0.0), old)
    assert torch.equal(blend_rows(old, None, order, 1.0), old)
    shifted = blend_rows(old, directions + 11, order, 0.3)
    torch.testing.assert_close(shifted, rows, rtol=1e-4, atol=1e-4)


def test_equal_directions_leave_the_old_rows_and_no_nan():
    rows = blend_rows(torch.ones(3, 4), torch.ones(3, 4), np.arange(3, dtype=np.int32), 0.5)
    torch.testing.assert_close(rows, torch.ones(3, 4))


def test_most_active_cluster_is_measured_against_its_own_mean():
    activations = torch.tensor([[10.0, 1.0, 0.2], [9.0, 0.5, 0.9]])
    h = torch.tensor([10.0, 0.5, 0.3])
    expert_of = torch.tensor([5, 6, 7])
    assert most_active_expert(activations, h, expert_of).tolist() == [6, 7]
