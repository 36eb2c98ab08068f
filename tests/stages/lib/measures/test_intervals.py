import numpy as np
import pytest

from padd_stages.lib.measures import intervals
from padd_stages.lib.measures.intervals import (
    bootstrap_interval,
    bootstrap_means,
    percentile_interval,
)


def slow_bootstrap(values, seed, draws, level):
    generator = np.random.default_rng(seed)
    means = []
    for _ in range(draws):
        picks = generator.integers(len(values), size=len(values))
        means.append(sum(values[pick] for pick in picks) / len(values))
    means.sort()
    tail = (1 - level) / 2
    return np.quantile(means, tail), np.quantile(means, 1 - tail)


def test_equals_the_obvious_version():
    values = np.random.default_rng(3).random(17)
    np.testing.assert_allclose(
        bootstrap_interval(values, seed=5, draws=200, level=0.9),
        slow_bootstrap(values, 5, 200, 0.9),
        atol=1e-12,
    )


def test_chunks_change_nothing(monkeypatch):
    values = np.random.default_rng(4).random(31)
    whole = bootstrap_interval(values, draws=150)
    monkeypatch.setattr(intervals, "RESAMPLED_VALUES_AT_ONCE", 7 * 31)
    assert bootstrap_interval(values, draws=150) == whole


def test_width_is_that_of_the_normal_approximation():
    n, p = 400, 0.3
    values = np.array([1.0] * int(n * p) + [0.0] * (n - int(n * p)))
    low, high = bootstrap_interval(values, draws=4000)
    half = 1.96 * (p * (1 - p) / n) ** 0.5
    assert low == pytest.approx(p - half, abs=0.006)
    assert high == pytest.approx(p + half, abs=0.006)


def test_coverage_is_near_the_level():
    generator = np.random.default_rng(0)
    hits = 0
    for trial in range(300):
        low, high = bootstrap_interval(generator.random(60) < 0.4, seed=trial, draws=300)
        hits += low <= 0.4 <= high
    assert 0.90 <= hits / 300 <= 0.98


def test_same_seed_same_interval_and_other_seed_another():
    values = np.random.default_rng(1).random(50)
    assert bootstrap_interval(values, seed=2) == bootstrap_interval(values, seed=2)
    assert bootstrap_interval(values, seed=2) != bootstrap_interval(values, seed=3)


def test_one_value_and_equal_values():
    assert bootstrap_interval([0.25]) == (0.25, 0.25)
    assert bootstrap_interval([1, 1, 1]) == (1.0, 1.0)


def test_percentile_interval():
    assert percentile_interval(np.arange(101.0), level=0.9) == pytest.approx((5.0, 95.0))


@pytest.mark.parametrize("values", [[], [[1.0, 2.0]], [1.0, float("nan")]])
def test_bad_values_are_refused(values):
    with pytest.raises(ValueError):
        bootstrap_interval(values)


def test_a_bad_level_is_refused():
    with pytest.raises(ValueError, match="level"):
        bootstrap_interval([1, 2], level=1.0)


class TestRuns:
    def test_one_run_is_the_bootstrap_over_problems(self):
        values = np.random.default_rng(5).random(23)
        np.testing.assert_array_equal(bootstrap_means(values[None], seed=7), bootstrap_means(values, seed=7))
        assert percentile_interval(bootstrap_means(values[None])) == bootstrap_interval(values)

    def test_equals_the_obvious_version(self):
        values = np.random.default_rng(6).random((3, 11))
        problems = np.random.default_rng(2)
        runs = np.random.default_rng(np.random.SeedSequence(9, spawn_key=(1,))).integers(3, size=(3, 40))
        slow = []
        for draw in range(40):
            picks = problems.integers(11, size=11)
            slow.append(np.mean([values[run, pick] for run in runs[:, draw] for pick in picks]))
        np.testing.assert_allclose(bootstrap_means(values, seed=2, draws=40, run_seed=9), slow)

    def test_the_spread_is_that_of_runs_and_of_problems_together(self):
        runs, problems = np.array([0.0, 0.1, 0.3, 0.4]), np.random.default_rng(1).random(30)
        draws = bootstrap_means(runs[:, None] + problems, draws=40000)
        assert draws.var() == pytest.approx(runs.var() / 4 + problems.var() / 30, rel=0.05)

    def test_the_same_seed_draws_the_same_problems_whatever_the_number_of_runs(self, monkeypatch):
        difficulty = np.random.default_rng(3).random(19)
        monkeypatch.setattr(intervals, "RESAMPLED_VALUES_AT_ONCE", 5 * 19)
        few, many = (bootstrap_means(np.tile(difficulty, (runs, 1)), draws=99) for runs in (1, 4))
        np.testing.assert_allclose(few, many)

    def test_other_run_seeds_draw_other_runs(self):
        values = np.random.default_rng(4).random((5, 1)) + np.zeros((5, 13))
        first, second = (bootstrap_means(values, run_seed=run_seed) for run_seed in (0, 1))
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.1

    @pytest.mark.parametrize(("spread_of_runs", "low", "high"), [(0.0, 0.93, 1.0), (5.0, 0.65, 0.85)])
    def test_three_runs_cover_what_problems_do_and_too_little_of_what_runs_do(
        self, spread_of_runs, low, high
    ):
        """Where runs differ by far more than problems do, three of them are too few for a bootstrap: docs/METHOD.md."""
        generator = np.random.default_rng(0)
        hits = 0
        for trial in range(300):
            runs, problems = generator.normal(size=(3, 1)), generator.normal(size=40)
            noise = generator.normal(size=(3, 40))
            values = spread_of_runs * runs + problems + noise
            left, right = percentile_interval(bootstrap_means(values, seed=trial, draws=300, run_seed=trial))
            hits += left <= 0 <= right
        assert low <= hits / 300 <= high
