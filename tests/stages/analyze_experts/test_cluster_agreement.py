"""Experts and the clusters that they came from."""

import math

import numpy as np
import pytest

from padd_stages.analyze_experts.cluster_agreement import agreement_json, matched_agreement, profile_agreement

EXPERTS, SUBDOMAINS = 5, 3


def test_own_clusters_against_random_pairings():
    generator = np.random.default_rng(2)
    correlation = generator.normal(scale=0.1, size=(40, 40)) + 0.5 * np.eye(40)
    value, chance = matched_agreement(correlation, draws=200, seed=0)
    assert value == pytest.approx(np.mean([correlation[j, j] for j in range(40)]))
    assert value > 0.4 > np.percentile(chance, 97.5)
    # a random pairing keeps one expert in place on average
    everywhere = correlation.mean()
    assert chance.mean() == pytest.approx(everywhere, abs=4 * chance.std() / math.sqrt(200))
    none, chance = matched_agreement(correlation[:, generator.permutation(40)], draws=200, seed=0)
    assert np.percentile(chance, 0.5) < none < np.percentile(chance, 99.5)


def test_json_means_over_the_layers_that_can_be_told():
    draws = np.linspace(-0.1, 0.1, 41)
    layers = [(0.4, draws), (math.nan, np.full(41, math.nan)), (0.2, draws + 0.1)]
    report = agreement_json("profiles over subdomains", layers, 7)
    assert (report["measure"], report["tokens"]) == ("profiles over subdomains", 7)
    assert report["correlation"] == pytest.approx(0.3)
    assert report["random_pairing"]["mean"] == pytest.approx(0.05)
    assert report["layers"][1] == {
        "correlation": None,
        "random_pairing": dict.fromkeys(("mean", "low", "high")),
    }
    assert report["layers"][2]["random_pairing"]["high"] == pytest.approx(0.195)
    nothing = agreement_json("profiles over subdomains", [layers[1]], 7)
    assert nothing["correlation"] is None
    assert nothing["random_pairing"]["high"] is None


def test_profile_agreement_by_hand_and_against_random_pairing():
    generator = np.random.default_rng(0)
    clusters = generator.random((SUBDOMAINS, EXPERTS)) + 0.1
    experts = clusters**2 * np.array([1.0, 2.0, 3.0, 4.0, 5.0])  # twice the preference, whatever the size
    value, chance = profile_agreement(clusters, experts, draws=60, seed=0)
    a, b = (np.log2(x / x.mean(axis=0)) for x in (clusters, experts))
    assert value == pytest.approx(((a - a.mean()) * (b - b.mean())).mean() / (a.std() * b.std()))
    assert value > 0.98 > np.percentile(chance, 97.5)
    assert np.percentile(chance, 2.5) < 0.3


def test_profile_agreement_leaves_out_what_cannot_be_told():
    clusters, experts = np.random.default_rng(1).random((2, SUBDOMAINS, EXPERTS)) + 0.1
    whole, _ = profile_agreement(clusters, experts, draws=20, seed=0)
    empty, dead = np.full((1, EXPERTS), np.nan), np.zeros((SUBDOMAINS, 1))
    wider = np.hstack([np.vstack([clusters, empty]), np.ones((SUBDOMAINS + 1, 1))])
    padded = np.vstack([np.hstack([experts, dead]), np.zeros((1, EXPERTS + 1))])
    assert profile_agreement(wider, padded, draws=20, seed=0)[0] == pytest.approx(whole)
    value, chance = profile_agreement(clusters[:1], experts[:1], draws=20, seed=0)
    assert math.isnan(value)
    assert np.isnan(chance).all()
    assert chance.shape == (20,)
