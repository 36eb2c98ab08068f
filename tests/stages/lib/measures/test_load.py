"""Load of experts: by hand, by the definition of the Gini coefficient, and at its extremes."""

import math

import pytest

from padd_stages.lib.measures.load import expert_load

COUNTS = [[6, 0, 2, 0, 2], [7, 7, 7, 7, 7], [0, 0, 9, 0, 0], [0, 0, 0, 0, 0]]


def test_by_hand_and_by_the_definition_of_gini():
    load = expert_load(COUNTS)
    assert load.share[0].tolist() == pytest.approx([0.6, 0.0, 0.2, 0.0, 0.2])
    assert load.dead[0].tolist() == [False, True, False, True, False]
    assert load.max_vio[0] == pytest.approx(5 * 0.6 - 1)
    assert load.entropy[0] == pytest.approx(-sum(x * math.log(x) for x in (0.6, 0.2, 0.2)) / math.log(5))
    assert load.gini[0] == pytest.approx(
        sum(abs(a - b) for a in load.share[0] for b in load.share[0]) / (2 * 5)
    )


def test_extremes():
    load = expert_load(COUNTS)
    assert load.entropy[1:].tolist() == pytest.approx([1, 0, 1])
    assert load.gini[1:].tolist() == pytest.approx([0, 0.8, 0])
    assert load.max_vio[1:].tolist() == pytest.approx([0, 4, 0])


def test_a_layer_without_a_slot_is_even_and_dead():
    load = expert_load(COUNTS)
    assert load.share[3].tolist() == [0.2] * 5
    assert load.dead[3].all()
