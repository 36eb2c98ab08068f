"""Paths of tokens through the layers: which K experts in every MoE layer (docs/METHOD.md, section 8).

A path is known by a 64-bit hash, the sum of one random number for each chosen expert of each layer (Zobrist
hashing), so the order in which a layer names its experts does not matter. Two of n different paths collide with a
probability of about n^2 / 2^65.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from padd_stages.lib.measures.specialisation import entropy

BUDGET = 1 << 20  # paths counted at once, 16 bytes each: exact up to a million of them
MOST_COMMON = 1024  # paths that stay counted whatever their hash; chosen: far more than are shown
REPORTED_PATHS = 20
CONCENTRATION = 10  # the share of the ten most common paths


class PathCounter:
    """Counter of paths in memory that does not grow with tokens.

    Beyond the budget the paths with an even lowest bit of their hash are kept, then those with two zero bits, and so on
    (adaptive sampling; Flajolet 1990, 10.1007/BF02241657); each kept one then stands for 2, 4, ... of the rare ones.
    The most common paths at each halving are kept with exact counts. Up to the budget everything is exact.
    """

    def __init__(self, layers: int, experts: int, budget: int = BUDGET) -> None:
        """Draw the hash numbers of L ``layers`` and N ``experts``; ``budget``: distinct paths counted at once."""
        numbers = np.random.default_rng(0).integers(-(2**63), 2**63, size=(layers, experts), dtype=np.int64)
        self._numbers = torch.from_numpy(numbers)
        self._budget, self._level = budget, 0
        self._hashes, self._counts = np.empty(0, np.uint64), np.empty(0, np.int64)
        self._common = np.empty(0, np.uint64)
        self._shown: dict[int, list[list[int]]] = {}
        self._top_k = self.tokens = 0

    def add(self, indices: Tensor) -> None:
        """Add the C tokens of a batch: the chosen experts (L, C, K)."""
        indices = indices.cpu().long()
        self._top_k = indices.shape[-1]
        self.tokens += indices.shape[1]
        # int64 sums wrap modulo 2^64, which keeps them uniform; a dictionary of whole paths would grow with the tokens
        rows = [table[chosen].sum(dim=-1) for table, chosen in zip(self._numbers, indices)]
        hashes = torch.stack(rows).sum(dim=0).numpy().view(np.uint64)  # (C,), modulo 2^64
        new, first, counts = np.unique(hashes, return_index=True, return_counts=True)
        self._merge(new, counts)
        while len(self._hashes) > self._budget:
            self._level += 1
            order = np.lexsort((self._hashes, -self._counts))
            self._common = np.sort(self._hashes[order[: min(MOST_COMMON, self._budget // 2)]])
            self._keep(self._wanted(self._hashes))
        places = dict(zip(new.tolist(), first.tolist()))
        self._shown = {
            key: self._shown.get(key) or indices[:, places[key]].sort(dim=-1).values.tolist()
            for key in self._top(REPORTED_PATHS)[0].tolist()
        }

    def report(self) -> dict[str, Any]:
        """Return the paths' part of ``report.json``.

        k: K. tokens. exact: whether every path was counted; if not, distinct and entropy are estimates.
        distinct: different paths. share_of_top_10: share of tokens on the ten most common. entropy: of their shares
        over ln tokens: 0 is one path for all, 1 a path of its own for each token. top: the most common, each with its
        experts by layer, in order of their numbers, and its share of tokens.
        """
        keys, counts = self._top(REPORTED_PATHS)
        shares = counts / max(self.tokens, 1)
        return {
            "k": self._top_k,
            "tokens": self.tokens,
            "exact": self._level == 0,
            "distinct": int(self._weights().sum()),
            "share_of_top_10": float(shares[:CONCENTRATION].sum()),
            "entropy": self._entropy(),
            "top": [{"path": self._shown[k], "share": s} for k, s in zip(keys.tolist(), shares.tolist())],
        }

    def _merge(self, hashes: NDArray[np.uint64], counts: NDArray[np.int64]) -> None:
        wanted = self._wanted(hashes)
        together = np.concatenate([self._hashes, hashes[wanted]])
        self._hashes, places = np.unique(together, return_inverse=True)
        totals = np.zeros(len(self._hashes), np.int64)
        np.add.at(totals, places, np.concatenate([self._counts, counts[wanted]]))
        self._counts = totals

    def _keep(self, mask: NDArray[np.bool_]) -> None:
        self._hashes, self._counts = self._hashes[mask], self._counts[mask]

    def _sampled(self, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        return hashes & np.uint64((1 << self._level) - 1) == 0

    def _wanted(self, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        return self._sampled(hashes) | np.isin(hashes, self._common)

    def _weights(self) -> NDArray[np.float64]:
        """Return how many paths each counted one stands for."""
        return np.where(np.isin(self._hashes, self._common), 1.0, 2.0**self._level)

    def _top(self, number: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Return the most common paths' hashes and counts; ties by hash, so that batches do not matter."""
        if len(self._counts) > number:  # all that tie with the last one are sorted too
            least = np.partition(self._counts, -number)[-number]
            candidates = np.flatnonzero(self._counts >= least)
        else:
            candidates = np.arange(len(self._counts))
        order = np.lexsort((self._hashes[candidates], -self._counts[candidates]))[:number]
        return self._hashes[candidates[order]], self._counts[candidates[order]]

    def _entropy(self) -> float:
        if self.tokens < 2:
            return 0.0
        if self._level == 0:
            return float(entropy(self._counts) / np.log(self.tokens))
        shares = self._counts / self.tokens
        return float(-(self._weights() * shares * np.log(shares)).sum() / np.log(self.tokens))
