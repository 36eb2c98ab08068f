"""A pico pair, made once a session from the real transformers classes: random weights, the toy's words."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from padd_artifacts.artifact import Artifact
from padd_artifacts.manifest import Parent
from padd_artifacts.plan import Plan
from padd_artifacts.writer import ArtifactWriter, Output

torch.set_num_threads(
    1
)  # tiny tensors: a second thread costs more than it brings, far more on a busy machine


@dataclass(frozen=True)
class Pico:
    """Folders of a dense teacher, an MoE student, and a split of toy problems."""

    teacher: Path
    student: Path
    split: Path
    problems: Path


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real problems; tests that need it are marked ``data``."""
    folder = os.environ.get("PADD_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("PADD_DATA names no folder of real problems")
    return Path(folder)


@pytest.fixture(scope="session")
def pico(tmp_path_factory: pytest.TempPathFactory) -> Pico:
    """No two dimensions are equal, so that a transpose cannot pass."""
    return make_pair(tmp_path_factory.mktemp("pico"), 24, 28, 12)


@pytest.fixture(scope="session")
def pico_bf16(tmp_path_factory: pytest.TempPathFactory) -> Pico:
    """The same in bf16, whose grouped products want rows of a multiple of 16 bytes."""
    return make_pair(tmp_path_factory.mktemp("pico_bf16"), 24, 32, 16, torch.bfloat16)


@pytest.fixture(scope="session")
def pico_8bit(tmp_path_factory: pytest.TempPathFactory) -> Pico:
    """In bf16 too, each process's experts of two, 3 of 5 or 2, large enough for 8-bit moments."""
    return make_pair(tmp_path_factory.mktemp("pico_8bit"), 24, 64, 32, torch.bfloat16)


def make_pair(
    folder: Path,
    teacher_width: int,
    student_width: int,
    expert_width: int,
    dtype: torch.dtype = torch.float32,
) -> Pico:
    """Write a random pair with a split of toy problems."""
    import json

    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

    from padd_stages.split_data import stage as split_data
    from padd_stages.split_data.options import SplitInputs, SplitOptions
    from padd_stages.toy.problems import generate
    from padd_stages.toy.tokenizer import build_tokenizer

    torch.manual_seed(0)
    common = {"vocab_size": 0, "max_position_embeddings": 200, "tie_word_embeddings": False}
    tokenizers = {"teacher": build_tokenizer(1), "student": build_tokenizer(2)}
    ids = {
        name: {"eos_token_id": t.eos_token_id, "pad_token_id": t.pad_token_id, "vocab_size": len(t)}
        for name, t in tokenizers.items()
    }
    teacher = Qwen2ForCausalLM(
        Qwen2Config(
            **(common | ids["teacher"]),
            hidden_size=teacher_width,
            intermediate_size=40,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    )
    student = Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            **(common | ids["student"]),
            hidden_size=student_width,
            intermediate_size=44,
            moe_intermediate_size=expert_width,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=6,
            num_experts=5,
            num_experts_per_tok=2,
            norm_topk_prob=True,
        )
    )
    for name, model in (("teacher", teacher), ("student", student)):
        model.to(dtype).save_pretrained(folder / name)
        tokenizers[name].save_pretrained(folder / name)
    problems = folder / "problems.jsonl"
    rows = generate(120, seed=3)
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    split_data.run(
        SplitInputs(problems=str(problems)),
        SplitOptions(ratios=(0.2, 0.2, 0.4, 0.2), exact_counts=True),
        Output(folder / "split"),
    )
    return Pico(folder / "teacher", folder / "student", folder / "split", problems)


@pytest.fixture(scope="session")
def clusters(pico: Pico, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clusters artifact of the pico pair."""
    from padd_stages.cluster import stage as cluster
    from padd_stages.cluster.options import ClusterInputs, ClusterOptions

    out = tmp_path_factory.mktemp("clusters") / "clusters"
    inputs = ClusterInputs(teacher=str(pico.teacher), student=str(pico.student), split=pico.split)
    cluster.run(inputs, ClusterOptions(), Output(out))
    return out


@pytest.fixture
def make_evaluation(tmp_path: Path) -> Callable[..., Path]:
    """Write evaluation artifacts: scores by benchmark, one a problem (greedy) or a row of them (sampled)."""
    from padd_stages.evaluate.options import EvaluateOptions

    def rows(benchmark: str, scores: list[Any], prefix: str) -> Iterator[dict[str, Any]]:
        for number, given in enumerate(scores):
            mode, samples = ("sampled", given) if isinstance(given, list) else ("greedy", [given])
            asked = {
                "benchmark": benchmark,
                "id": f"p{number}",
                "problem": f"{prefix}{number}",
                "answer": "7",
            }
            for k, score in enumerate(samples):
                yield {**asked, "mode": mode, "sample": k, "score": float(score)}

    def make(
        name: str,
        benchmarks: dict[str, list[Any]],
        *,
        model: Artifact | None = None,
        prefix: str = "What is ",
        protocol: dict[str, Any] | None = None,
        **options: Any,
    ) -> Path:
        parents = {"model": model.as_parent() if model else Parent(kind="model", digest=name)}
        plan = Plan("evaluation", EvaluateOptions(**options), parents)
        report = {
            key: {"headline": "sampled" if isinstance(scores[0], list) else "greedy"}
            | ({"protocol": protocol} if protocol else {})
            for key, scores in benchmarks.items()
        }
        with ArtifactWriter(Output(tmp_path / name), plan) as writer:
            lines = (row for key, scores in benchmarks.items() for row in rows(key, scores, prefix))
            writer.write_jsonl("responses.jsonl", lines)
            writer.write_json("report.json", {"benchmarks": report})
        return tmp_path / name

    return make


@pytest.fixture
def make_student(tmp_path: Path) -> Callable[..., Artifact]:
    """Write what a trained student's manifest says, without a model."""
    from padd_stages.train.options import TrainOptions

    def make(name: str, *, seed: int = 0, **summary: Any) -> Artifact:
        plan = Plan("student", TrainOptions(seed=seed), {"student": Parent(kind="model", digest=name)})
        with ArtifactWriter(Output(tmp_path / name, force=True), plan) as writer:
            writer.summary.update(summary)
        return writer.artifact

    return make


class LengthGrader:
    """Stands in for the grader: responses of even length are right. Random weights never solve a problem."""

    timeouts = 0

    def __init__(self, workers: int = 1, time_limit: float = 1.0) -> None:
        pass

    def __enter__(self) -> "LengthGrader":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def grade(self, pairs: list[tuple[str, object]], extract: str = "boxed") -> list[object]:
        from padd_stages.lib.grading.grader import Verdict

        return [Verdict(len(text) % 2 == 0, text, "match") for text, _ in pairs]


@pytest.fixture
def length_grader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training runs grade by length."""
    from padd_stages.train import stage as train

    monkeypatch.setattr(train, "Grader", LengthGrader)
