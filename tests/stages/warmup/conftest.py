"""What a warmup works with, loaded once: the pico pair, its clusters and a few rows of D_B."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from padd_artifacts.artifact import Artifact, open_artifact
from padd_stages.lib.models.expert_clusters import ExpertClusters
from padd_stages.lib.models.loading import LanguageModel, load_model
from padd_stages.lib.models.policy import Policy
from padd_stages.lib.models.teacher import Teacher
from padd_stages.lib.runtime.processes import Processes
from padd_stages.warmup.options import WarmupOptions
from padd_stages.warmup.texts import WarmupItem, warmup_items


@dataclass(frozen=True)
class Bench:
    student: LanguageModel
    teacher: Teacher
    policy: Policy
    items: list[WarmupItem]
    clusters: Artifact
    expert_clusters: ExpertClusters
    options: Callable[..., WarmupOptions]
    processes: Processes


def small_options(**changes: Any) -> WarmupOptions:
    return WarmupOptions(**({"steps": 4, "batch_size": 6, "max_length": 90, "max_new_tokens": 5} | changes))


@pytest.fixture
def bench(pico, clusters: Path) -> Bench:
    student = load_model(str(pico.student), moe=True)
    teacher = Teacher(load_model(str(pico.teacher)), student)
    rows = open_artifact(pico.split, "split").jsonl("b.jsonl")
    items = warmup_items(rows, student, teacher.language_model, small_options())
    artifact = open_artifact(clusters, "clusters")
    return Bench(
        student,
        teacher,
        Policy(student.model),
        items,
        artifact,
        ExpertClusters.from_artifact(artifact),
        small_options,
        Processes(torch.device("cpu")),
    )
