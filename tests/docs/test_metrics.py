"""docs/METRICS.md: every number that a run logs is explained, and nothing that no run logs."""

import re
from pathlib import Path
from typing import Any

import pytest
from vllm_server import VllmServer

from padd_artifacts.artifact import Artifact
from padd_artifacts.writer import Output
from padd_stages.analyze_experts import stage as analyze_experts
from padd_stages.analyze_experts.options import AnalyzeInputs, AnalyzeOptions
from padd_stages.evaluate import stage as evaluate
from padd_stages.evaluate.options import EvaluateInputs, EvaluateOptions
from padd_stages.lib.data.subdomains import SUBDOMAINS
from padd_stages.lib.models.loading import load_model
from padd_stages.lib.models.saving import save_model
from padd_stages.train import stage as train
from padd_stages.train.options import TrainInputs, TrainOptions
from padd_stages.warmup import stage as warmup
from padd_stages.warmup.options import WarmupInputs, WarmupOptions

PAGE = Path(__file__).resolve().parents[2] / "docs" / "METRICS.md"
SECTIONS = {
    "train": "## train: metrics.jsonl",
    "routing": "## train: routing.jsonl",
    "warmup": "## warmup: metrics.jsonl",
    "samples": "## Other logs of train",
    "responses": "## eval: responses.jsonl",
    "report": "## eval: report.json",
    "experts": "## analyze-experts: report.json",
    "tensors": "## analyze-experts: routing.safetensors",
}


def documented(section: str) -> list[str]:
    """The names in the first column of a section's tables."""
    text = PAGE.read_text(encoding="utf-8").split(SECTIONS[section] + "\n")[1].split("\n## ")[0]
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("|")]
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def matches(name: str, key: str) -> bool:
    return re.fullmatch(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(name)), key) is not None


def compare(section: str, rows: list[dict[str, Any]]) -> None:
    keys, names = {key for row in rows for key in row}, documented(section)
    unexplained = sorted(key for key in keys if not any(matches(name, key) for name in names))
    assert unexplained == [], f"{PAGE.name}, {SECTIONS[section]}: explain these"
    stale = [name for name in names if not any(matches(name, key) for key in keys)]
    assert stale == [], f"{PAGE.name}, {SECTIONS[section]}: no run writes these"


@pytest.fixture(scope="module")
def trained(pico: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Artifact]:
    """Runs with all options that log something, those that exclude each other in two."""
    folder = tmp_path_factory.mktemp("page")
    inputs = TrainInputs(student=str(pico.student), teacher=str(pico.teacher), split=pico.split)
    small = {"prompts_per_step": 2, "num_generations": 3, "max_completion_length": 4, "workers": 1}
    small |= {"dynamic_sampling": 1, "router_aux_loss_coef": 0.01}
    by_words = TrainOptions(steps=2, stable_moe=0.5, eta=0, gamma=0, **small)
    small |= {"router_replay": "rollout", "rollout_correction": "tis", "engine": "vllm", "log_noise_every": 1}
    with VllmServer(pico.student) as server:
        served = TrainOptions(steps=1, log_shift_every=1, engine_url=server.url, **small)
        return [
            train.run(inputs, options, Output(folder / name))
            for name, options in (("served", served), ("words", by_words))
        ]


@pytest.mark.parametrize(
    ("section", "file"),
    [("train", "metrics.jsonl"), ("routing", "routing.jsonl"), ("samples", "samples.jsonl")],
)
def test_what_train_logs_is_explained(trained: list[Artifact], section: str, file: str) -> None:
    compare(section, [row for artifact in trained for row in artifact.jsonl(file)])


def test_what_warmup_logs_is_explained(pico: Any, clusters: Path, tmp_path: Path) -> None:
    inputs = WarmupInputs(
        teacher=str(pico.teacher), student=str(pico.student), clusters=clusters, split=pico.split
    )
    options = WarmupOptions(steps=1, batch_size=4, max_new_tokens=4, workers=1)
    compare("warmup", warmup.run(inputs, options, Output(tmp_path / "warmup")).jsonl("metrics.jsonl"))


def test_what_eval_writes_is_explained(pico: Any, tmp_path: Path) -> None:
    inputs = EvaluateInputs(model=str(pico.student), problems=str(pico.split))
    options = EvaluateOptions(limit=2, samples=2, max_new_tokens=4, workers=1)
    artifact = evaluate.run(inputs, options, Output(tmp_path / "eval"))
    compare("responses", artifact.jsonl("responses.jsonl"))
    compare("report", [artifact.report["benchmarks"]["d"][mode] for mode in ("greedy", "sampled")])


def nested_keys(value: Any) -> set[str]:
    """Every key of a report, without those that are data (roles, subdomains) and the ends of intervals."""
    if isinstance(value, list):
        return set().union(*map(nested_keys, value))
    if not isinstance(value, dict) or value.keys() == {"mean", "low", "high"}:
        return set()
    data = value.keys() <= {*SUBDOMAINS} or value.keys() <= {"base", "stage1", "student"}
    return nested_keys(list(value.values())) | (set() if data else set(value))


def test_what_analyze_experts_writes_is_explained(pico: Any, clusters: Path, tmp_path: Path) -> None:
    student = load_model(str(pico.student), moe=True)
    save_model(tmp_path / "student", student)  # with a router state
    inputs = AnalyzeInputs(
        student=str(tmp_path / "student"), base=str(pico.student), clusters=clusters, split=pico.split
    )
    artifact = analyze_experts.run(inputs, AnalyzeOptions(permutations=20), Output(tmp_path / "experts"))
    compare("experts", [dict.fromkeys(nested_keys(artifact.report))])
    names = artifact.tensors("routing.safetensors")
    compare("tensors", [dict.fromkeys(names)])
