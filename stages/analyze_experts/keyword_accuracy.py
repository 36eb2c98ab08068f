"""Accuracy of the keyword rules against the subdomain labels of the data."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from padd_stages.lib.data.subdomains import SUBDOMAINS, keyword_label


def classifier_json(problems: Iterable[tuple[str, str | None]]) -> dict[str, Any]:
    """Score the rules on problems (text, label); a label of None is not scored.

    source: where the problems' subdomains come from: "labels", "keywords" (no problem has a label) or "mixed".
    labelled: problems with a label. accuracy: share of them that the rules put under it, None without any.
    confusion: counts by label (row) and rules (column), both in the order of ``labels``.
    """
    pairs = list(problems)
    counts = np.zeros((len(SUBDOMAINS), len(SUBDOMAINS)), dtype=np.int64)
    for problem, label in pairs:
        if label is not None:
            counts[SUBDOMAINS.index(label), SUBDOMAINS.index(keyword_label(problem))] += 1
    labelled = int(counts.sum())
    return {
        "source": "keywords" if not labelled else "labels" if labelled == len(pairs) else "mixed",
        "labelled": labelled,
        "accuracy": float(counts.trace() / labelled) if labelled else None,
        "confusion": {"labels": list(SUBDOMAINS), "counts": counts.tolist()},
    }
