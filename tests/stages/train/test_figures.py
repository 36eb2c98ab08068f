"""What the figures of training and of Router-shift show: the artists' own numbers are read back."""

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.image import AxesImage

from padd_stages.lib.measures.seed_bands import seed_band
from padd_stages.lib.plots.style import COLOURS
from padd_stages.train.balance_figures import bias_figure, correlation, load_over_training
from padd_stages.train.curve_figures import CURVES, curve_panel, drawable_curves, training_curves
from padd_stages.train.router_shift_figures import (
    ecdfs,
    mixture_share,
    router_shift_figure,
    shift_at_kl_figure,
    shift_ecdf_figure,
)

LEVELS = np.linspace(0, 1, 101)


def rows(seed, count=7):
    return [
        {
            "step": 10 + i,
            "reward": 0.1 * i + seed,
            "accuracy": 0.1 * i + seed,
            "clip_ratio/low_mean": 0.01,
            "temperature/p25": 0.8 - 0.01 * i,
            "temperature/p50": 1.0 + 0.01 * i,
            "temperature/p75": 1.3,
            "unknown": float(i),
        }
        for i in range(count)
    ]


def lines_of(axis):
    return {line.get_label(): line for line in axis.get_lines() if not line.get_label().startswith("_")}


class TestCurves:
    def test_only_what_says_something_is_drawn_and_nothing_twice(self):
        titles = [curve.title for curve in drawable_curves({"grpo": [rows(0)]})]
        assert titles == ["reward", "temperature, median and quartiles"]
        constant_here = {
            "grpo": [rows(0)],
            "padd": [[row | {"clip_ratio/low_mean": row["reward"]} for row in rows(0)]],
        }
        assert "clipped at A < 0" in [curve.title for curve in drawable_curves(constant_here)]

    def test_a_line_a_method_and_a_band_over_its_seeds(self):
        runs = {"grpo": [rows(0)], "padd": [rows(0), rows(2)]}
        figure = training_curves(runs)
        assert figure is not None
        lines = lines_of(figure.axes[0])
        assert list(lines) == ["grpo", "padd"]
        assert [line.get_color() for line in lines.values()] == list(COLOURS[:2])
        assert lines["grpo"].get_linestyle() != lines["padd"].get_linestyle()
        np.testing.assert_allclose(lines["padd"].get_ydata(), 0.1 * np.arange(7) + 1)
        (band,) = figure.axes[0].collections
        expected = seed_band(runs["padd"], "reward")
        assert expected is not None
        ends = band.get_paths()[0].vertices[:, 1]
        assert (ends.max(), ends.min()) == pytest.approx((expected.high.max(), expected.low.min()))

    def test_quartiles_are_shaded_around_the_median(self):
        (curve,) = [curve for curve in CURVES if curve.metric == "temperature/p50"]
        (axis,) = curve_panel({"padd": [rows(0)]}, curve).axes
        ends = axis.collections[0].get_paths()[0].vertices[:, 1]
        assert (ends.min(), ends.max()) == pytest.approx((0.74, 1.3))

    def test_no_known_metric_no_figure(self):
        assert training_curves({"padd": [[{"step": 1, "unknown": 2.0}]]}) is None
        assert training_curves({"padd": []}) is None
        assert training_curves({}) is None


class TestRouterShift:
    def test_figure_4_has_the_bands_of_the_methods_that_were_measured(self):
        measured = [[{"step": step, "x": step * (1 + seed)} for step in (5, 10)] for seed in range(3)]
        bands = {"grpo": None, "padd": seed_band(measured, "x")}
        (axis,) = router_shift_figure(bands).axes
        (line,) = lines_of(axis).values()
        assert line.get_color() == COLOURS[1]  # grpo's stays free
        assert line.get_xydata().tolist() == [[5, 10], [10, 20]]
        assert axis.get_ylim()[0] == 0

    def test_a_mixture_is_the_share_of_all_tokens_together(self):
        generator = np.random.default_rng(0)
        first, second = generator.gamma(2, 0.01, 4000), generator.gamma(1, 0.03, 1000)
        quantiles = np.stack([np.quantile(values, LEVELS) for values in (first, second)])
        x = np.linspace(0, 0.1, 50)
        found = mixture_share(quantiles, np.array([4000.0, 1000.0]), x)
        slow = [(np.concatenate([first, second]) <= value).mean() for value in x]
        np.testing.assert_allclose(found, slow, atol=0.005)

    def test_tokens_that_did_not_move_are_a_step_at_zero(self):
        quantiles = np.maximum(LEVELS - 0.4, 0)[None]
        found = mixture_share(quantiles, np.ones(1), np.array([0.0, 0.3, 0.7]))
        np.testing.assert_allclose(found, [0.4, 0.7, 1.0])
        assert mixture_share(np.zeros((1, 101)), np.ones(1), np.array([0.0]))[0] == 1.0

    def test_figure_5_marks_the_quantiles(self):
        uniform = (0.2 * LEVELS[None], np.ones(1))
        wider = (0.4 * LEVELS[None], np.ones(1))
        found = ecdfs({"grpo": [wider], "padd": [uniform, uniform]})
        assert found["padd"].marked[0.5] == pytest.approx(0.1, abs=1e-3)
        assert found["grpo"].marked[0.95] == pytest.approx(0.38, abs=1e-3)
        assert found["padd"].x[-1] == pytest.approx(0.392)
        figure = shift_ecdf_figure({"online-kd": None, **found})
        (axis,) = figure.axes
        marks = [line for line in axis.get_lines() if line.get_marker() == "o"]
        assert [mark.get_ydata()[0] for mark in marks] == [0.5, 0.95, 0.5, 0.95]
        assert lines_of(axis)["padd"].get_color() == COLOURS[2]

    def test_shift_against_kl_leaves_out_what_has_no_logarithm(self):
        (axis,) = shift_at_kl_figure({"padd": (np.array([1e-4, 0.0, 2e-4]), np.array([0.1, 0.2, 0.3]))}).axes
        (points,) = axis.collections
        assert np.asarray(points.get_offsets()).tolist() == [[1e-4, 0.1], [2e-4, 0.3]]
        assert axis.get_xscale() == axis.get_yscale() == "log"


class TestBalance:
    def test_layers_are_lines_where_they_are_few_and_a_heatmap_where_many(self):
        steps = np.arange(1, 6.0)
        few = np.random.default_rng(0).random((5, 3))
        figure = load_over_training(
            {"grpo": (steps, few), "padd": (steps, few + 1)}, [1, 2, 5], label="MaxVio"
        )
        left, right = (axis for axis in figure.axes if axis.get_visible())
        assert list(lines_of(left)) == ["layer 1", "layer 2", "layer 5"]
        np.testing.assert_allclose(lines_of(right)["layer 5"].get_ydata(), few[:, 2] + 1)
        assert left.get_ylim() == right.get_ylim()
        many = np.random.default_rng(0).random((5, 48))
        figure = load_over_training({"padd": (steps, many)}, list(range(48)), label="MaxVio")
        (image,) = [c for c in figure.axes[0].get_children() if isinstance(c, AxesImage)]
        np.testing.assert_allclose(image.get_array(), many.T)

    def test_bias_against_load_and_quality(self):
        load = np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
        bias, quality = -load, np.array([[0.1, 0.2, 0.0], [0.0, 0.0, 0.0]])
        left, right = bias_figure(load, bias, quality, [3, 4]).axes
        points = [c for c in left.collections if isinstance(c, PathCollection)]
        np.testing.assert_allclose(points[1].get_offsets(), np.stack([3 * load[1], bias[1]], axis=1))
        others = [c for c in right.collections if isinstance(c, PathCollection)]
        np.testing.assert_allclose(others[0].get_offsets(), np.stack([quality[0], bias[0]], axis=1))
        assert correlation(load, bias) == pytest.approx(-1.0)
        assert correlation(quality, np.zeros((2, 3))) is None
