"""Numbers of an evaluation: accuracy, avg@k, pass@k, maj@k, intervals, lengths (docs/METHOD.md, section 6)."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from math import comb
from typing import Any

import numpy as np

from padd_stages.evaluate.tasks import MODES, Task
from padd_stages.lib.grading.notation import readable
from padd_stages.lib.measures.intervals import bootstrap_interval, bootstrap_means, percentile_interval

Record = dict[str, Any]  # a row of responses.jsonl
UNLABELLED = "unlabelled"


def evaluation_report(tasks: Sequence[Task], records: Sequence[Record], *, seed: int) -> dict[str, Any]:
    """Compute every benchmark's numbers, and the unweighted mean of their headlines.

    Args:
        tasks, records: one a response, in the same order.
        seed: of the bootstrap.
    """
    sets = {task.problems.name: task.problems for task in tasks}
    found: dict[tuple[str, str], dict[int, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for task, record in zip(tasks, records, strict=True):
        found[task.problems.name, task.mode][task.index].append(record)
    benchmarks: dict[str, Any] = {}
    draws = []
    for number, (name, problems) in enumerate(sets.items()):
        modes = [mode for mode in MODES if (name, mode) in found]
        benchmarks[name] = {"problems": len(problems.rows), "headline": modes[0]}
        for mode in modes:
            groups = list(found[name, mode].values())
            benchmarks[name][mode] = _numbers(groups, seed) | (_samples(groups) if mode == "sampled" else {})
        # resampled apart from one another: problems of two benchmarks have nothing in common
        draws.append(bootstrap_means(_means(list(found[name, modes[0]].values())), seed=seed + number))
        benchmarks[name]["protocol"] = problems.protocol.model_dump()
    headlines = [entry[entry["headline"]]["accuracy"] for entry in benchmarks.values()]
    return {
        "benchmarks": benchmarks,
        "average": float(np.mean(headlines)),
        "average_interval": list(percentile_interval(np.mean(draws, axis=0))),
    }


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Compute the unbiased estimate of the chance that one of k samples is right (arXiv 2107.03374, eq. 1).

    It is 1 - C(n-c, k) / C(n, k).

    Args:
        samples: n, at least k.
        correct: c of them.
    """
    return 1.0 - comb(samples - correct, k) / comb(samples, k)


def majority_vote(records: Sequence[Record]) -> float:
    """Compute maj@k of one problem: whether the most frequent answer is right.

    Votes are counted by the answer's text (white space, e-notation and thousands marks brought into one form); a
    response without an answer, or cut off, has no vote. Of answers with equally many votes each counts its share.
    """
    votes: Counter[str] = Counter()
    right: dict[str, float] = {}
    for record in records:
        if record["extracted"] is not None and not record["truncated"]:
            answer = readable(record["extracted"])
            votes[answer] += 1
            right[answer] = record["score"]
    most = [answer for answer, count in votes.items() if count == max(votes.values())]
    return sum(right[answer] for answer in most) / len(most) if most else 0.0


def _means(groups: list[list[Record]]) -> np.ndarray:
    return np.array([np.mean([record["score"] for record in group]) for group in groups])


def _numbers(groups: list[list[Record]], seed: int) -> dict[str, Any]:
    """Compute the numbers of one mode; ``groups`` holds the responses to each problem."""
    means = _means(groups)
    flat = [record for group in groups for record in group]
    return _accuracy(means, seed) | {
        "subjects": _by(groups, means, "subject", seed),
        "levels": _by(groups, means, "level", seed),
        "reasons": dict(sorted(Counter(record["reason"] for record in flat).items())),
        "truncated": float(np.mean([record["truncated"] for record in flat])),
        "tokens": _lengths([record["tokens"] for record in flat if record["tokens"] is not None]),
    }


def _samples(groups: list[list[Record]]) -> dict[str, Any]:
    samples = min(len(group) for group in groups)
    scores = [[record["score"] for record in group] for group in groups]
    powers = [1 << power for power in range(samples.bit_length())]
    return {
        "samples": samples,
        "pass_at_k": {
            str(k): float(np.mean([pass_at_k(len(each), int(sum(each)), k) for each in scores]))
            for k in sorted({*powers, samples})
        },
        "maj_at_k": float(np.mean([majority_vote(group) for group in groups])),
    }


def _accuracy(means: np.ndarray, seed: int) -> dict[str, Any]:
    return {"accuracy": float(means.mean()), "interval": list(bootstrap_interval(means, seed=seed))}


def _by(groups: list[list[Record]], means: np.ndarray, label: str, seed: int) -> dict[str, Any]:
    """Compute accuracy by subject or level; empty where no problem has one."""
    parts: dict[str, list[float]] = defaultdict(list)
    for group, mean in zip(groups, means, strict=True):
        parts[group[0][label] or UNLABELLED].append(float(mean))
    if set(parts) == {UNLABELLED}:
        return {}
    return {
        name: {"problems": len(values)} | _accuracy(np.array(values), seed)
        for name, values in sorted(parts.items())
    }


def _lengths(tokens: list[int]) -> dict[str, float] | None:
    """Compute response lengths in tokens; None where they are not known."""
    if not tokens:
        return None
    return {"mean": float(np.mean(tokens)), "median": float(np.median(tokens)), "max": max(tokens)}


def summary_of(report: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest's summary of an evaluation: the accuracies with their intervals."""
    summary: dict[str, Any] = {"average": report["average"], "benchmarks": {}}
    if "parameters" in report:
        summary["active_parameters"] = report["parameters"]["active"]
    for name, entry in report["benchmarks"].items():
        numbers: dict[str, Any] = {"problems": entry["problems"]}
        for mode in [mode for mode in MODES if mode in entry]:
            low, high = entry[mode]["interval"]
            numbers |= {mode: entry[mode]["accuracy"], f"{mode}_low": low, f"{mode}_high": high}
        summary["benchmarks"][name] = numbers
    return summary
