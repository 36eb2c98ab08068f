import math
from collections import Counter

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score, normalized_mutual_info_score

from padd_stages.lib.measures import specialisation as sp

EXPERTS, SUBDOMAINS, LAYERS = 5, 3, 2


def random_counts(seed, shape=(LAYERS, EXPERTS, SUBDOMAINS), high=40):
    return np.random.default_rng(seed).integers(0, high, size=shape)


def tokens_of(counts):
    """The slots behind a count matrix, one by one: (expert, subdomain)."""
    return [(j, s) for j, row in enumerate(counts) for s, n in enumerate(row) for _ in range(n)]


def slow_entropy(items):
    tally = Counter(items)
    return -sum(n / len(items) * math.log(n / len(items)) for n in tally.values())


def slow_esi(counts):
    slots = tokens_of(counts)
    whole = slow_entropy([s for _, s in slots])
    live = sorted({j for j, _ in slots})
    return sum(1 - slow_entropy([s for i, s in slots if i == j]) / whole for j in live) / len(live)


@pytest.mark.parametrize("seed", range(6))
def test_nmi_is_scikit_learns(seed):
    counts = random_counts(seed)
    for layer, value in zip(counts, sp.nmi(counts), strict=True):
        experts, subdomains = zip(*tokens_of(layer), strict=True)
        expected = normalized_mutual_info_score(subdomains, experts, average_method="geometric")
        assert value == pytest.approx(expected, abs=1e-12)
        information = mutual_info_score(subdomains, experts)
        assert sp.mutual_information(layer) == pytest.approx(information, abs=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_esi_equals_the_obvious_version(seed):
    counts = random_counts(seed, high=4)
    counts[0, 1] = 0  # a dead expert does not count
    for layer, value in zip(counts, sp.esi(counts), strict=True):
        assert value == pytest.approx(slow_esi(layer), abs=1e-12)


def test_esi_by_hand():
    # H(D) = ln 2; expert 0 is pure, expert 1 is an even mix, expert 2 is dead: (1 + 0) / 2 in shares of 1/4 and 3/4
    counts = [[2, 0], [3, 5], [0, 0]]
    mixed = -(3 / 8 * math.log(3 / 8) + 5 / 8 * math.log(5 / 8))
    assert sp.esi(counts) == pytest.approx((1 + 1 - mixed / math.log(2)) / 2)


def test_perfect_specialisation():
    # five experts for three subdomains, each expert pure
    counts = np.array([[4, 0, 0], [8, 0, 0], [0, 9, 0], [0, 0, 2], [0, 0, 7]])
    assert sp.esi(counts) == pytest.approx(1.0)
    of_subdomains, of_experts = sp.entropy(counts.sum(axis=0)), sp.entropy(counts.sum(axis=1))
    assert sp.nmi(counts) == pytest.approx(math.sqrt(of_subdomains / of_experts))
    assert sp.nmi(np.diag([3, 3, 3])) == pytest.approx(1.0)


def test_independent_routing_has_none():
    counts = np.outer([1, 2, 3, 4, 5], [2, 7, 3])
    assert sp.nmi(counts) == pytest.approx(0.0, abs=1e-12)
    assert sp.esi(counts) == pytest.approx(0.0, abs=1e-12)


def test_one_expert_is_zero_and_one_subdomain_says_nothing():
    assert sp.nmi([[3, 4], [0, 0]]) == 0.0
    assert math.isnan(sp.nmi([[3, 0], [4, 0]]))
    assert math.isnan(sp.esi([[3, 0], [4, 0]]))
    assert math.isnan(sp.nmi([[0, 0], [0, 0]]))
    assert math.isnan(sp.esi([[0, 0], [0, 0]]))


def test_shuffled_tokens_keep_the_margins_and_forget_the_rest():
    counts = random_counts(1)
    tables = sp.shuffled_tokens(counts, draws=30, seed=4)
    assert tables.shape == (30, *counts.shape)
    assert (tables >= 0).all()
    assert (tables.sum(axis=-1) == counts.sum(axis=-1)).all()
    assert (tables.sum(axis=-2) == counts.sum(axis=-2)).all()
    assert (sp.shuffled_tokens(counts, draws=30, seed=4) == tables).all()
    assert (sp.shuffled_tokens(counts, draws=30, seed=5) != tables).any()


def test_shuffled_tokens_have_the_distribution_of_real_shuffles():
    counts = random_counts(2, shape=(EXPERTS, SUBDOMAINS), high=12)
    slots = np.array(tokens_of(counts))
    generator = np.random.default_rng(0)
    draws = 3000
    slow = np.zeros((draws, EXPERTS, SUBDOMAINS))
    for table in slow:
        np.add.at(table, (slots[:, 0], generator.permutation(slots[:, 1])), 1)
    fast = sp.shuffled_tokens(counts[None], draws=draws, seed=1)[:, 0]
    # standard errors: a cell's deviation (below 3) over sqrt(draws), twice
    np.testing.assert_allclose(fast.mean(axis=0), slow.mean(axis=0), atol=0.3)
    np.testing.assert_allclose(fast.std(axis=0), slow.std(axis=0), atol=0.2)
    np.testing.assert_allclose(np.quantile(sp.nmi(fast), 0.975), np.quantile(sp.nmi(slow), 0.975), rtol=0.1)


def test_random_routing_lies_within_its_interval_and_specialised_routing_above():
    generator = np.random.default_rng(11)
    routed, labels = generator.integers(EXPERTS, size=4000), generator.integers(SUBDOMAINS, size=4000)
    counts = np.zeros((1, EXPERTS, SUBDOMAINS), dtype=np.int64)
    np.add.at(counts[0], (routed, labels), 1)
    shuffled = sp.shuffled_tokens(counts, draws=100, seed=0)
    specialised = counts.copy()
    specialised[0, 0, 0] += 400
    for statistic in (sp.nmi, sp.esi):
        interval = sp.baseline(statistic(shuffled).mean(axis=1))
        assert interval.low <= statistic(counts)[0] <= interval.high
        assert interval.low < interval.mean < interval.high < 0.01
        assert statistic(specialised)[0] > interval.high


def test_problem_shuffles_are_wider_where_problems_are_alike_inside():
    generator = np.random.default_rng(5)
    problems = 40
    favourite = generator.integers(
        EXPERTS, size=problems
    )  # each problem has its expert, whatever its subdomain
    counts = np.zeros((problems, LAYERS, EXPERTS), dtype=np.int64)
    counts[np.arange(problems), :, favourite] = 25
    labels = generator.integers(SUBDOMAINS, size=problems)
    joint = sp.joint_counts(counts, labels, SUBDOMAINS)
    by_problem = sp.baseline(
        sp.nmi(sp.shuffled_problems(counts, labels, SUBDOMAINS, draws=60, seed=0)).mean(axis=1)
    )
    by_token = sp.baseline(sp.nmi(sp.shuffled_tokens(joint, draws=60, seed=0)).mean(axis=1))
    value = sp.nmi(joint).mean()
    assert by_token.high < value <= by_problem.high  # only the stricter shuffle sees that there is nothing


def test_joint_counts_equal_the_obvious_version():
    counts = random_counts(3, shape=(11, LAYERS, EXPERTS))
    labels = np.random.default_rng(3).integers(SUBDOMAINS - 1, size=11)  # the last subdomain has no problem
    slow = np.zeros((LAYERS, EXPERTS, SUBDOMAINS), dtype=np.int64)
    for problem, label in zip(counts, labels, strict=True):
        for layer in range(LAYERS):
            for j in range(EXPERTS):
                slow[layer, j, label] += problem[layer, j]
    np.testing.assert_array_equal(sp.joint_counts(counts, labels, SUBDOMAINS), slow)
    shuffled = sp.shuffled_problems(counts, labels, SUBDOMAINS, draws=7, seed=2)
    assert (shuffled.sum(axis=-1) == slow.sum(axis=-1)).all()
    assert (shuffled != slow).any()


def test_selectivity_by_hand():
    counts = [[6, 2], [2, 6], [0, 0], [0, 8]]
    value = sp.relative_load(counts)
    assert value.shape == (2, 4)
    assert value[0, 0] == pytest.approx(math.log2((6 / 8) / (8 / 24)))
    assert value[1, 3] == pytest.approx(math.log2((8 / 16) / (8 / 24)))
    assert value[0, 3] == -math.inf
    assert np.isnan(value[:, 2]).all()
    assert np.isnan(sp.relative_load([[1, 0], [2, 0]])[1]).all()


def test_relative_activation_leaves_empty_subdomains_out():
    value = sp.relative_activation([[1.0, 2.0, 4.0], [0.0, 0.0, 0.0], [3.0, 2.0, 1.0]])
    assert np.isnan(value[1]).all()
    np.testing.assert_allclose(value[0], np.log2([1 / 2, 1.0, 4 / 2.5]))
    np.testing.assert_allclose(value[2], np.log2([3 / 2, 1.0, 1 / 2.5]))
