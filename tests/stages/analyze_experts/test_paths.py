"""Counting paths: exactly within the budget, by sampling beyond it."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from padd_stages.analyze_experts.paths import PathCounter

LAYERS, EXPERTS, TOP_K = 3, 7, 2


def random_routes(seed, tokens, experts=EXPERTS):
    """(L, C, K) of distinct experts; squared uniform numbers make some paths common."""
    scores = np.random.default_rng(seed).random((LAYERS, tokens, experts)) ** 2 * np.arange(1, experts + 1)
    return torch.from_numpy(np.argsort(-scores, axis=-1)[..., :TOP_K].copy())


def slow_counts(routes):
    paths = (
        tuple(tuple(sorted(routes[m, t].tolist())) for m in range(LAYERS)) for t in range(routes.shape[1])
    )
    return Counter(paths)


def counted(routes, sizes, **options):
    counter = PathCounter(LAYERS, options.pop("experts", EXPERTS), **options)
    for part in routes.split(sizes, dim=1):
        counter.add(part)
    return counter.report()


def test_equals_a_count_of_sorted_tuples():
    routes = random_routes(0, 3000)
    counts, report = slow_counts(routes), counted(routes, [1, 999, 2000])
    assert (report["k"], report["tokens"], report["exact"]) == (TOP_K, 3000, True)
    assert report["distinct"] == len(counts)
    common = [n for _, n in counts.most_common(20)]
    assert report["share_of_top_10"] == pytest.approx(sum(common[:10]) / 3000)
    assert [row["share"] for row in report["top"]] == pytest.approx([n / 3000 for n in common])
    for row in report["top"]:
        assert counts[tuple(map(tuple, row["path"]))] / 3000 == pytest.approx(row["share"])
    slow = -sum(n / 3000 * math.log(n / 3000) for n in counts.values()) / math.log(3000)
    assert report["entropy"] == pytest.approx(slow)


def test_batches_and_the_order_of_experts_do_not_matter():
    routes = random_routes(1, 500)
    whole = counted(routes, [500])
    assert counted(routes, [7] * 71 + [3]) == whole
    assert counted(routes.flip(-1), [250, 250]) == whole


def test_extremes():
    one = torch.tensor([3, 5]).expand(LAYERS, 40, TOP_K)
    report = counted(one, [40])
    assert (report["distinct"], report["share_of_top_10"], report["entropy"]) == (1, 1.0, 0.0)
    assert report["top"] == [{"path": [[3, 5]] * LAYERS, "share": 1.0}]
    apart = torch.arange(40)[None, :, None] + torch.tensor([0, 100])
    report = counted(apart.expand(LAYERS, 40, TOP_K), [40], experts=200)
    assert (report["distinct"], report["entropy"]) == (40, pytest.approx(1.0))


def test_beyond_the_budget_memory_stays_and_estimates_come_close():
    rare = random_routes(2, 60_000, experts=60)
    common = torch.tensor([4, 9]).expand(LAYERS, 6_000, TOP_K)
    routes = torch.cat([rare, common], dim=1)[
        :, torch.randperm(66_000, generator=torch.Generator().manual_seed(0))
    ]
    exact = counted(routes, [2000] * 33, experts=60)
    counter = PathCounter(LAYERS, 60, budget=4096)
    for part in routes.split(2000, dim=1):
        counter.add(part)
        assert len(counter._hashes) <= 4096
    report = counter.report()
    assert exact["exact"]
    assert not report["exact"]
    assert exact["distinct"] > 50_000
    assert report["distinct"] == pytest.approx(exact["distinct"], rel=0.1)  # 1 / sqrt(3,000) is 0.02
    assert report["entropy"] == pytest.approx(exact["entropy"], rel=0.1)
    assert report["top"][0] == exact["top"][0]
    assert report["top"][0]["path"] == [[4, 9]] * LAYERS
