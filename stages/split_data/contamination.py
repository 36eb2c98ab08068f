"""Removal of benchmark problems and near duplicates from the data (docs/METHOD.md, section 1).

Two problems are as similar as the runs of three words that they share (Jaccard index). That alone cannot tell a
benchmark problem from another instance of its template ("how many ways to put 5 balls into 2 boxes", "3 boxes"), so the
numbers decide: where each number of one problem stands in the other, they count as the same problem.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer

from padd_stages.lib.data.problems import Row, normalise

RUN_WORDS = 3  # chosen: runs of 13, as for web pages, miss short problems and find every "m and n are relatively prime"
ROW_BATCH = 4_096  # chosen: against 2,000 benchmark problems a few ten MB

_DRAWING = re.compile(r"\[asy\].*?\[/asy\]", re.DOTALL)
_TOKEN = re.compile(r"\\?[^\W\d_]+|\d+|[+\-*/=<>|!#%]")
_MARKUP = re.compile(r"\\(?:left|right|text|textrm|mathrm|q?quad|displaystyle|[lc]?dots|limits)")


@dataclass(frozen=True)
class ContaminatedRow:
    """A row that a benchmark problem resembles.

    Attributes:
        similarity: shared runs of three words over all of theirs, 0 to 1.
        removed: the numbers agree, so it counts as the same problem; else it is only listed.
    """

    id: str
    benchmark: str
    benchmark_id: str
    similarity: float
    removed: bool


def decontaminate(
    rows: Sequence[Row], benchmarks: Mapping[str, Sequence[Row]], threshold: float
) -> tuple[list[Row], list[ContaminatedRow]]:
    """Remove rows whose problem is also in a benchmark, and list those that resemble one.

    Args:
        rows: with ``id`` and ``problem``.
        benchmarks: name of each benchmark -> its rows, with ``id`` and ``problem``.
        threshold: the similarity from which a pair is listed; 1 finds the same words alone.
    """
    known = [(name, row) for name, problems in benchmarks.items() for row in problems]
    if not rows or not known:
        return list(rows), []
    words = [_words(row["problem"]) for row in rows]
    known_words = [_words(row["problem"]) for _, row in known]
    found = [
        ContaminatedRow(
            rows[i]["id"],
            known[j][0],
            known[j][1]["id"],
            similarity,
            _numbers_agree(words[i], known_words[j]),
        )
        for i, j, similarity in _similar(words, known_words, threshold)
    ]
    removed = {pair.id for pair in found if pair.removed}
    return [row for row in rows if row["id"] not in removed], found


def _words(problem: str) -> list[str]:
    """Split into words, commands, numbers and operators; without drawings, layout and brackets. Never empty."""
    text = normalise(problem)
    words = [token for token in _TOKEN.findall(_DRAWING.sub(" ", text)) if not _MARKUP.fullmatch(token)]
    return words or [text]


def _runs(words: list[str]) -> list[str]:
    return [" ".join(words[start : start + RUN_WORDS]) for start in range(max(1, len(words) - RUN_WORDS + 1))]


def _similar(
    words: list[list[str]], known: list[list[str]], threshold: float
) -> list[tuple[int, int, float]]:
    """Find pairs (row, benchmark problem, Jaccard index of their runs) from ``threshold`` up, exactly."""
    vectorizer = CountVectorizer(analyzer=_runs, binary=True)  # pyright: ignore[reportArgumentType] - takes a callable
    known_runs: Any = vectorizer.fit_transform(known)
    known_sizes = np.asarray(known_runs.sum(axis=1)).ravel()
    pairs: list[tuple[int, int, float]] = []
    for start in range(0, len(words), ROW_BATCH):
        part = words[start : start + ROW_BATCH]
        sizes = np.array([len(set(_runs(each))) for each in part])
        shared = sparse.coo_array(vectorizer.transform(part) @ known_runs.T)
        i, j = shared.coords
        similarity = shared.data / (sizes[i] + known_sizes[j] - shared.data)
        kept = np.flatnonzero(similarity >= threshold)
        pairs += [(start + int(i[k]), int(j[k]), float(similarity[k])) for k in kept]
    return sorted(pairs)


def _numbers_agree(one: list[str], other: list[str]) -> bool:
    left, right = (Counter(word for word in words if word.isdigit()) for words in (one, other))
    return left <= right or right <= left
