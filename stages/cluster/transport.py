"""Assignment of rows to clusters of fixed sizes with the greatest total score.

This is a transport problem. It is solved in two steps, both in integers, so that every comparison is exact
and the result does not depend on the order of floating-point sums:

1. Prices. Each cluster charges a price, each row takes the cluster with the best score minus price, and prices
   follow demand until nearly all sizes hold. That is ascent on the dual problem; every pass is one argmax.
2. Repair. A few rows that are still too many go straight to where some are missing, cheapest move first: the sum of
   scores stays within 1e-4 of the optimum. More than a few, and few rows in all, travel along the cheapest chain of
   moves (successive shortest paths over a graph whose nodes are the clusters). The prices make every row's first
   choice optimal, so no chain of moves can gain, and the result of the repair is the optimum of the rounded scores.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from padd_stages.cluster.row_blocks import map_on_threads, row_blocks

# Chosen: scores use 2^27 steps below each row's best (finer than fp32's 24 bits), prices twice that range, so
# that score minus price stays inside int32.
SCORE_STEPS = 2**27
PRICE_LIMIT = 2**28
# Measured at 18,944 rows and 128 clusters: about ten passes leave 0.2 % of the rows for the repair. So few are moved
# straight: 3 ms an assignment, where cheapest chains take 26 ms and the clustering ends no lower.
MAX_PASSES = 60
REPAIR_SHARE = 0.002
# Rprop's factors (Riedmiller and Braun, 1993; the larger growth is measured to save passes).
STEP_GROWTH = 1.5
STEP_CUT = 0.5
UNREACHABLE = np.int64(2**60)


@dataclass(frozen=True)
class Assignment:
    """``clusters`` (n,) int32; ``prices`` (N,) in units of score, a warm start for scores that are much alike."""

    clusters: NDArray[np.int32]
    prices: NDArray[np.float64]


def assign(scores: NDArray[np.float32], prices: NDArray[np.float64] | None = None) -> Assignment:
    """Assign every row to a cluster; sizes are equal, or differ by one where N does not divide n.

    Args:
        scores: (n, N), greater is better, n >= N.
        prices: (N,) of an earlier call, in units of score.

    Returns:
        The assignment whose summed score is the greatest, up to rounding of scores to 2^-27 of their range; nearly the
        greatest where there are many rows (see above).
    """
    count, clusters = scores.shape
    steps, unit = _quantise(scores)
    start = np.zeros(clusters) if prices is None else prices / unit
    choice, found = _follow_demand(steps, start)
    _Repair(steps, choice, found, count // clusters, count % clusters).run()
    return Assignment(choice, found.astype(np.float64) * unit)


def _quantise(scores: NDArray[np.float32]) -> tuple[NDArray[np.int32], float]:
    """Quantise scores to integers at or below 0 (each row's best is 0); return them and the score of one step."""
    steps = np.empty(scores.shape, np.int32)
    blocks = row_blocks(len(scores))
    best = scores.max(axis=1, keepdims=True)
    deepest = min(map_on_threads(lambda block: float((scores[block] - best[block]).min()), blocks))
    unit = (-deepest or 1.0) / SCORE_STEPS

    def fill(block: slice) -> None:
        gaps = scores[block] - best[block]
        gaps *= np.float32(1 / unit)
        steps[block] = np.rint(gaps, out=gaps)

    map_on_threads(fill, blocks)
    return steps, unit


def _follow_demand(
    steps: NDArray[np.int32], start: NDArray[np.float64]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Search for prices; return the first choices (n,) under the best prices found, and these prices (N,)."""
    count, clusters = steps.shape
    size = count / clusters
    price = np.clip(start, -PRICE_LIMIT, PRICE_LIMIT)
    pace = np.full(clusters, _typical_margin(steps))
    direction = np.zeros(clusters)
    best = count + 1
    choice, found = np.zeros(count, np.int32), np.zeros(clusters, np.int32)
    for _ in range(MAX_PASSES):
        rounded = np.rint(price).astype(np.int32)
        wanted = _first_choices(steps, rounded)
        surplus = np.bincount(wanted, minlength=clusters) - size
        too_many = np.maximum(surplus, 0).sum()
        if too_many < best:
            best, choice, found = too_many, wanted, rounded
        if best <= max(REPAIR_SHARE * count, clusters * (size % 1)):
            break
        turned = np.sign(surplus) * direction
        pace *= np.where(turned > 0, STEP_GROWTH, np.where(turned < 0, STEP_CUT, 1.0))
        direction = np.sign(surplus)
        price = np.clip(price + pace * np.clip(2 * surplus / size, -1, 1), -PRICE_LIMIT, PRICE_LIMIT)
    return choice, found


def _first_choices(steps: NDArray[np.int32], price: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the cluster (n,) with the best score minus price of each row."""
    choice = np.empty(len(steps), np.int32)

    def fill(block: slice) -> None:
        choice[block] = (steps[block] - price).argmax(axis=1)

    map_on_threads(fill, row_blocks(len(steps)))
    return choice


def _typical_margin(steps: NDArray[np.int32], sample: int = 1024) -> float:
    """Compute the median distance of a row's best score (0) from its second best: the scale of prices."""
    if steps.shape[1] == 1:
        return 1.0
    rows = steps[:: max(1, len(steps) // sample)]
    return max(1.0, -float(np.median(np.partition(rows, -2, axis=1)[:, -2])))


class _Repair:
    """Repair of cluster sizes by moving rows along cheapest chains.

    ``rows[u]`` (m,) are the rows of cluster u and ``gaps[u]`` (m, N) what moving them costs, known for the clusters
    that rows may leave; ``cost[v, u]`` is the cheapest move from u to v. Node N of the graph stands for the freedom of
    uneven sizes: ``large[j]`` marks the clusters of ``size + 1``; a chain through node N hands this mark from one
    cluster to another.
    """

    def __init__(
        self,
        steps: NDArray[np.int32],
        choice: NDArray[np.int32],
        price: NDArray[np.integer],
        size: int,
        large: int,
    ) -> None:
        self.steps = steps
        self.choice = choice
        clusters = steps.shape[1]
        self.mark = clusters
        self.large = np.zeros(clusters, dtype=bool)
        # The dearest clusters are the most wanted: with the marks there, handing one on cannot gain.
        self.large[np.argsort(-price.astype(np.int64), kind="stable")[:large]] = True
        self.uneven = large > 0
        counts = np.bincount(choice, minlength=clusters)
        self.surplus = counts - size - self.large
        self.cost = np.full((clusters + 1, clusters + 1), UNREACHABLE)
        self.rows = np.split(np.argsort(choice, kind="stable"), np.cumsum(counts)[:-1])
        self.gaps: dict[int, NDArray[np.int32]] = {}

    def run(self) -> None:
        """Repair ``choice`` in place."""
        too_many = self.surplus > 0
        direct = self.surplus[too_many].sum() <= REPAIR_SHARE * len(self.choice)
        for cluster in np.flatnonzero(too_many).tolist() if direct else range(self.mark):
            self.gaps[cluster] = self._gaps(self.rows[cluster], cluster)
            self._refresh(cluster)
        while (self.surplus > 0).any():
            for chain in [self._cheapest_move()] if direct else self._cheapest_chains():
                self._push(chain)

    def _gaps(self, rows: NDArray[np.intp], cluster: int) -> NDArray[np.int32]:
        steps = self.steps[rows]
        return steps[:, cluster, None] - steps

    def _refresh(self, cluster: int) -> None:
        gaps = self.gaps[cluster]
        self.cost[: self.mark, cluster] = gaps.min(axis=0) if len(gaps) else UNREACHABLE
        self.cost[cluster, cluster] = UNREACHABLE
        if self.uneven:
            self.cost[self.mark, cluster] = UNREACHABLE if self.large[cluster] else 0
            self.cost[cluster, self.mark] = 0 if self.large[cluster] else UNREACHABLE

    def _cheapest_move(self) -> list[int]:
        """Return the cheapest chain of one move: from a cluster with too many rows straight to one with too few."""
        sources, ends = np.flatnonzero(self.surplus > 0), np.flatnonzero(self.surplus < 0)
        end, source = divmod(int(self.cost[np.ix_(ends, sources)].argmin()), len(sources))
        return [int(sources[source]), int(ends[end])]

    def _cheapest_chains(self) -> list[list[int]]:
        """Return cheapest chains from clusters with too many rows to those with too few, no node on two of them.

        One Bellman-Ford search finds them all. Each stays a cheapest way while the others are gone, since a push
        changes only the moves that begin at its own nodes, and none of these becomes cheaper than the search's
        distances allow.
        """
        nodes = self.mark + 1
        distance = np.full(nodes, UNREACHABLE)
        distance[:-1][self.surplus > 0] = 0
        before = np.full(nodes, -1)
        while True:
            through = self.cost + distance
            via = through.argmin(axis=1)
            length = through[np.arange(nodes), via]
            shorter = length < distance
            if not shorter.any():
                break
            distance[shorter] = length[shorter]
            before[shorter] = via[shorter]
        chains: list[list[int]] = []
        taken: set[int] = set()
        ends = np.flatnonzero(self.surplus < 0)
        for end in ends[np.argsort(distance[ends], kind="stable")]:
            chain = [int(end)]
            while before[chain[-1]] >= 0:
                chain.append(int(before[chain[-1]]))
            if taken.isdisjoint(chain):
                taken.update(chain)
                chains.append(chain[::-1])
        return chains

    def _push(self, chain: list[int]) -> None:
        """Move as many rows down the chain as ties allow; all of them cost the same."""
        edges = list(pairwise(chain))
        tied = [None if self.mark in edge else self._tied(*edge) for edge in edges]
        amount = int(min(self.surplus[chain[0]], -self.surplus[chain[-1]]))
        amount = min([amount, *(1 if places is None else len(places) for places in tied)])
        moves = [(u, v, places[:amount]) for (u, v), places in zip(edges, tied) if places is not None]
        moving = [self.rows[u][places] for u, _, places in moves]
        for u, _, places in moves:
            self.rows[u] = np.delete(self.rows[u], places)
            self.gaps[u] = np.delete(self.gaps[u], places, axis=0)
        for (_, v, _), rows in zip(moves, moving):
            self.rows[v] = np.concatenate([self.rows[v], rows])
            if v in self.gaps:
                self.gaps[v] = np.concatenate([self.gaps[v], self._gaps(rows, v)])
            self.choice[rows] = v
        for u, v in edges:
            if v == self.mark:
                self.large[u] = True
            elif u == self.mark:
                self.large[v] = False
        self.surplus[chain[0]] -= amount
        self.surplus[chain[-1]] += amount
        for node in chain:
            if node in self.gaps:
                self._refresh(node)

    def _tied(self, u: int, v: int) -> NDArray[np.intp]:
        """Return the positions in ``rows[u]`` of the rows whose move to v costs the least."""
        return np.flatnonzero(self.gaps[u][:, v] == self.cost[v, u])
