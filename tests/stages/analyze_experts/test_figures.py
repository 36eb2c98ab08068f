import numpy as np
import pytest
from matplotlib.image import AxesImage

from padd_stages.analyze_experts.figures import (
    Line,
    Panel,
    diverging_limit,
    layer_lines,
    load_figure,
    specialisation_heatmaps,
    unit_order,
)
from padd_stages.lib.plots.style import save_figure

NAN, INF = float("nan"), float("inf")


def image_of(axis):
    (image,) = [child for child in axis.get_children() if isinstance(child, AxesImage)]
    return image


def test_columns_are_ordered_by_preference_then_strength():
    values = [[0.1, 2.0, NAN, 0.9, -1.0], [0.5, -1.0, NAN, 0.2, 0.7]]
    assert unit_order(values).tolist() == [1, 3, 4, 0, 2]


def test_the_colour_limit_ignores_what_is_not_finite_and_stays_in_bounds():
    assert diverging_limit([[[1.0, -1.0, NAN, -INF]], [[1.0, 1.0]]]) == pytest.approx(1.0)
    assert diverging_limit([[[0.001]]]) == 0.25
    assert diverging_limit([[[50.0]]]) == 3.0
    assert diverging_limit([[[NAN]]]) == 0.25


def test_heatmaps_share_scale_rows_and_columns():
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(2, 3, 5))
    second[:, 2] = NAN
    second[0, 1] = -INF
    figure = specialisation_heatmaps(
        [Panel("clusters", first), Panel("experts", second)], ["x", "y", "z"], heading="Decoder layer 7"
    )
    top, bottom = figure.axes[:2]
    order = unit_order(first)
    limit = diverging_limit([first, second])
    for axis, values in ((top, first), (bottom, second)):
        image = image_of(axis)
        assert image.get_clim() == (-limit, limit)
        shown = np.ma.filled(np.ma.masked_invalid(image.get_array()), NAN)
        np.testing.assert_allclose(shown, np.clip(values, -limit, limit)[:, order])
        assert [label.get_text() for label in axis.get_yticklabels()] == ["x", "y", "z"]
    assert [label.get_text() for label in bottom.get_xticklabels()] == [str(j) for j in order]
    assert figure.get_suptitle() == "Decoder layer 7"
    assert top.get_title(loc="left") == "(a) clusters"


def test_load_is_sorted_with_dead_experts_left_blank():
    share = np.array([[0.5, 0.0, 0.3, 0.2], [0.25, 0.25, 0.25, 0.25], [0.1, 0.2, 0.3, 0.4]])
    figure = load_figure([Panel("base", share)], [1, 2, 5])
    heat, bars = figure.axes[:2]
    shown = np.ma.masked_invalid(image_of(heat).get_array())
    assert np.ma.getmaskarray(shown).tolist() == [[False] * 3 + [True], [False] * 4, [False] * 4]
    assert (np.diff(np.ma.filled(shown, -9), axis=1) <= 0).all()
    assert [bar.get_width() for bar in bars.patches] == pytest.approx([1.0, 0.0, 0.6])
    assert [label.get_text() for label in heat.get_yticklabels()] == ["1", "2", "5"]


def test_lines_and_their_chance():
    figure = layer_lines([Line("base", np.array([0.1, 0.2]), np.array([0.01, 0.02]))], [1, 3], ylabel="NMI")
    solid, dotted = figure.axes[0].get_lines()[:2]
    assert solid.get_xydata().tolist() == [[1, 0.1], [3, 0.2]]
    assert dotted.get_ydata().tolist() == [0.01, 0.02]


def test_same_figure_same_bytes(tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        save_figure(load_figure([Panel("base", np.array([[0.75, 0.25]]))], [0]), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert b"Software" not in paths[0].read_bytes()
