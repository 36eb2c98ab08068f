"""Means and intervals over seeds, against the formula written out."""

import math

import numpy as np
import pytest

from padd_stages.lib.measures.seed_bands import running_mean, seed_band

# Student's t, 97.5 %, for 1 and 2 degrees of freedom, from any table
T1, T2 = 12.706, 4.303


def rows(values, first=1):
    return [{"step": first + i, "x": value} for i, value in enumerate(values)]


def test_the_interval_is_students_t():
    band = seed_band([rows([1.0, 2.0]), rows([3.0, 2.0]), rows([8.0, 2.0])], "x")
    assert band is not None
    deviation = math.sqrt(((1 - 4) ** 2 + (3 - 4) ** 2 + (8 - 4) ** 2) / 2)
    assert band.mean.tolist() == [4.0, 2.0]
    assert band.high[0] - 4.0 == pytest.approx(T2 * deviation / math.sqrt(3), rel=1e-3)
    assert 4.0 - band.low[0] == pytest.approx(T2 * deviation / math.sqrt(3), rel=1e-3)
    assert (band.low[1], band.high[1], band.seeds) == (2.0, 2.0, 3)
    two = seed_band([rows([1.0]), rows([2.0])], "x")
    assert two is not None
    assert two.high[0] - 1.5 == pytest.approx(T1 * 0.5, rel=1e-3)


def test_one_seed_has_no_interval():
    band = seed_band([rows([1.0, 2.0])], "x")
    assert band is not None
    assert np.isnan(band.low).all()
    assert band.as_json() == {
        "steps": [1.0, 2.0], "mean": [1.0, 2.0], "low": [None, None], "high": [None, None], "seeds": 1,
    }  # fmt: skip


def test_only_steps_that_all_seeds_have_count():
    short, late = rows([1.0, 2.0, 3.0]), rows([5.0, None, 7.0], first=2)
    band = seed_band([short, late, [{"step": 1, "y": 0.0}]], "x")
    assert band is not None
    assert (band.steps.tolist(), band.mean.tolist(), band.seeds) == ([2.0], [3.5], 2)
    assert seed_band([short, rows([1.0], first=9)], "x") is None
    assert seed_band([short], "y") is None
    assert seed_band([], "x") is None


def test_long_series_are_smoothed_seed_by_seed():
    values = [np.random.default_rng(seed).random(40) for seed in (0, 1)]
    band = seed_band([rows(v) for v in values], "x", smooth=True)
    assert band is not None
    slow = [np.mean([v[max(0, i - 2) : i + 3].mean() for v in values]) for i in range(40)]
    np.testing.assert_allclose(band.mean, slow)
    plain = seed_band([rows(v[:19]) for v in values], "x", smooth=True)
    assert plain is not None
    np.testing.assert_allclose(plain.mean, np.mean([v[:19] for v in values], axis=0))


def test_running_mean_equals_the_obvious_version():
    values = np.random.default_rng(0).random(11)
    slow = [values[max(0, i - 2) : i + 3].mean() for i in range(11)]
    np.testing.assert_allclose(running_mean(values, 4), slow)
    np.testing.assert_allclose(running_mean(values, 1), values)
