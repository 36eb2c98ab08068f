"""A comparison made up of small artifacts: two methods by two seeds, with everything that a page can show."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from padd_artifacts.artifact import Artifact
from padd_artifacts.manifest import Parent
from padd_artifacts.plan import Plan
from padd_artifacts.writer import ArtifactWriter, Output
from padd_stages.analyze_experts.options import AnalyzeOptions
from padd_stages.cluster.options import ClusterOptions
from padd_stages.evaluate.options import EvaluateOptions
from padd_stages.lib.options.runs import parse_runs
from padd_stages.report import stage as write_report
from padd_stages.report.accuracies import read_results
from padd_stages.report.options import ReportInputs, ReportOptions
from padd_stages.report.page_data import PageData
from padd_stages.report.routing import read_routing
from padd_stages.report.runs import find_runs
from padd_stages.report.training import read_training
from padd_stages.split_data.options import SplitOptions
from padd_stages.train.options import TrainOptions
from padd_stages.warmup.options import WarmupOptions

LAYERS, EXPERTS, SUBDOMAINS, STEPS, PROBLEMS = 3, 5, ("algebra", "geometry"), 4, 6
HOSTILE = "</script><b>&\"'"
BASE = Parent(kind="model", digest="base student", path="hub/student")
TEACHER = Parent(kind="model", digest="dense teacher", path="hub/teacher")


@dataclass(frozen=True)
class Made:
    """Folders: ``root`` holds all; ``words`` name two methods with their runs, evaluations and expert reports."""

    root: Path
    words: list[str]


def write(
    path: Path, kind: str, options: Any, parents: dict[str, Parent], fill: Callable[..., None]
) -> Artifact:
    with ArtifactWriter(
        Output(path, command=f"padd {kind} --out {path.name}"), Plan(kind, options, parents)
    ) as writer:
        fill(writer)
    return writer.artifact


def student(path: Path, stage1: Artifact, seed: int, *, kd_weight: float = 1.0) -> Artifact:
    generator = np.random.default_rng([seed, round(kd_weight)])

    def fill(writer: ArtifactWriter) -> None:
        steps = range(1, STEPS + 1)
        names = ("reward", "policy_kl", "entropy", "load/max_vio", "bias/spread")
        writer.write_jsonl(
            "metrics.jsonl", [{"step": s, **dict(zip(names, generator.random(5).tolist()))} for s in steps]
        )
        rows = []
        for s in steps:
            row: dict[str, Any] = {"step": s}
            row |= {name: generator.random(LAYERS).tolist() for name in ("load_entropy", "max_vio")}
            if s % 2 == 0:
                quantiles = np.sort(generator.random(101))
                row["router_shift"] = {
                    "tokens": 70,
                    "mean": float(quantiles.mean()),
                    "quantiles": quantiles.tolist(),
                }
            rows.append(row)
        writer.write_jsonl("routing.jsonl", rows)
        writer.write_jsonl("timings.jsonl", [{"step": s, "tokens_per_second": 100.0} for s in steps])
        writer.path("model.safetensors").write_bytes(f"{path.name}".encode())
        writer.summary.update(stage3="active", reward=0.5)

    parents = {"student": stage1.as_parent(), "teacher": TEACHER}
    return write(path, "student", TrainOptions(seed=seed, steps=STEPS, kd_weight=kd_weight), parents, fill)


def evaluation(path: Path, model: Parent, seed: int, *, benchmark: str = "d") -> Artifact:
    generator = np.random.default_rng(seed)

    def fill(writer: ArtifactWriter) -> None:
        asked = [
            {"benchmark": benchmark, "id": i, "problem": f"What is {i}?", "answer": "7"}
            for i in range(PROBLEMS)
        ]
        rows = [row | {"mode": "greedy", "sample": 0, "score": float(generator.integers(2))} for row in asked]
        rows += [
            row | {"mode": "sampled", "sample": k, "score": float(generator.integers(2))}
            for row in asked
            for k in (0, 1)
        ]
        writer.write_jsonl("responses.jsonl", rows)
        writer.write_json("report.json", {"benchmarks": {benchmark: {"headline": "greedy"}}})

    return write(path, "evaluation", EvaluateOptions(seed=seed), {"model": model}, fill)


def model_numbers(generator: np.random.Generator, counts: np.ndarray) -> dict[str, Any]:
    shares = counts.sum(axis=2) / counts.sum(axis=(1, 2), keepdims=True)[..., 0]
    baseline = {"mean": 0.01, "low": 0.0, "high": 0.02}
    layers = [
        {
            "decoder_layer": m + 1,
            "nmi": float(generator.random()),
            "nmi_shuffled_problems": baseline,
            "share": share.tolist(),
        }
        for m, share in enumerate(shares)
    ]
    overall = {
        name: float(generator.random())
        for name in ("nmi", "esi", "load_entropy", "gini", "max_vio", "token_entropy")
    }
    return {
        "tokens_by_subdomain": {SUBDOMAINS[0]: 40, SUBDOMAINS[1]: 30},
        "dead_experts": 1,
        "nmi_shuffled_problems": baseline,
        "paths": {
            "distinct": 17,
            "share_of_top_10": 0.5,
            "entropy": 0.7,
            "top": [{"path": [[0, 3], [1, 2], [0, 4]], "share": 0.25}],
        },
        **overall,
        "layers": layers,
    }


def experts(path: Path, trained: Artifact, seed: int) -> Artifact:
    generator = np.random.default_rng(seed)

    def fill(writer: ArtifactWriter) -> None:
        roles = ("base", "stage1", "student")
        counts = {role: generator.integers(1, 9, (LAYERS, EXPERTS, len(SUBDOMAINS))) for role in roles}
        tensors = {f"{role}.counts": torch.from_numpy(c) for role, c in counts.items()}
        tensors |= {f"student.{part}": torch.rand(LAYERS, EXPERTS) for part in ("load", "bias", "quality")}
        tensors["clusters.activations"] = torch.rand(LAYERS, len(SUBDOMAINS), EXPERTS) + 0.1
        shift = {
            "from": "stage1",
            "to": "student",
            "mean": 0.1,
            "same_top_k": 0.9,
            "path_consistency": 0.8,
            "jaccard": [0.9] * LAYERS,
        }
        writer.write_tensors("routing.safetensors", tensors)
        models = {role: model_numbers(generator, c) for role, c in counts.items()}
        shown = {
            "subdomains": list(SUBDOMAINS),
            "shown_decoder_layer": 2,
            "models": models,
            "classifier": {
                "source": "labels",
                "labelled": 70,
                "accuracy": 0.625,
                "confusion": {
                    "labels": ["algebra", "geometry", "other"],
                    "counts": [[31, 0, 9], [17, 13, 0], [0] * 3],
                },
            },
            "shifts": [shift],
        }
        writer.write_json("report.json", shown)
        tokens = ["Find ", HOSTILE, " so", " 7"]
        sample = {
            "problem": "Find 7",
            "subdomain": "algebra",
            "reward": 1.0,
            "tokens": tokens,
            "prompt_tokens": 2,
            "experts": generator.integers(0, EXPERTS, (LAYERS, len(tokens))).tolist(),
            "probability": generator.random((LAYERS, len(tokens))).round(3).tolist(),
        }
        writer.write_json("samples.json", {"layers": [1, 2, 3], "samples": [sample]})

    return write(path, "experts", AnalyzeOptions(seed=seed), {"student": trained.as_parent()}, fill)


def clusters(path: Path) -> Artifact:
    layer = {
        "explained": 0.1,
        "random_mean": 0.01,
        "silhouette": 0.07,
        "stability": 0.4,
        "smallest": 8,
        "largest": 8,
    }
    router = {"r_squared": 0.5, "recall": 0.4, "recall_unblended": 0.7, "recall_old": 0.3}
    report = {
        "teacher_layers": {"0": layer, "1": layer},
        "router": {"0": router},
        "chance": 0.25,
        "verdict": "clusters are weak",
    }
    parents = {"teacher": TEACHER, "student": BASE}
    return write(path, "clusters", ClusterOptions(), parents, lambda w: w.write_json("report.json", report))


def warmup(path: Path, made: Artifact) -> Artifact:
    measured = {"topk": {"loss": 0.05, "accuracy": 0.7, "nmi": None, "dead_experts": 0}}

    def fill(writer: ArtifactWriter) -> None:
        writer.write_json("report.json", dict.fromkeys(("base", "before", "after"), measured))
        writer.write_jsonl("metrics.jsonl", [{"step": s, "loss/lm": 1 / s} for s in range(1, 9)])

    parents = {"teacher": TEACHER, "student": BASE, "clusters": made.as_parent()}
    return write(path, "student", WarmupOptions(), parents, fill)


@pytest.fixture(scope="session")
def build() -> SimpleNamespace:
    """The functions that write the artifacts of a run."""
    return SimpleNamespace(student=student, evaluation=evaluation, experts=experts, base=BASE)


@pytest.fixture(scope="session")
def write_page() -> Callable[..., Artifact]:
    """`write_page(words, out, **options)`: `padd report`."""

    def run(words: Sequence[str], out: Path, **options: Any) -> Artifact:
        return write_report.run(ReportInputs(runs=tuple(words)), ReportOptions(**options), Output(out))

    return run


@pytest.fixture(scope="session")
def page_data_of() -> Callable[[Sequence[str]], PageData]:
    """What a page is made from, by the words that name its runs."""

    def read(words: Sequence[str]) -> PageData:
        found = find_runs(parse_runs(words))
        return PageData(
            found, read_results(found, ReportOptions()), read_training(found), read_routing(found)
        )

    return read


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("made")
    write(
        root / "split",
        "split",
        SplitOptions(),
        {},
        lambda w: w.summary.update(problems=20, a=4, b=4, c=8, d=4),
    )
    stage1 = warmup(root / "warmup", clusters(root / "clusters"))
    evaluation(root / "eval" / "base", BASE, 7)
    evaluation(root / "eval" / "stage1", stage1.as_parent(), 8)
    words = []
    for method, weight in (("grpo", 0.0), ("padd", 1.0)):
        for seed in (0, 1):
            name = f"{method}-{seed}"
            trained = student(root / name, stage1, seed, kd_weight=weight)
            evaluation(root / "eval" / name, trained.as_parent(), 10 * seed + len(words))
            experts(root / "experts" / name, trained, seed)
            words.append(f"{method}={root}/{name},{root}/eval/{name},{root}/experts/{name}")
    words.append(f"states={root}/eval/base,{root}/eval/stage1")
    return Made(root, words)
