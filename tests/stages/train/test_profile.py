"""--profile N of a training: files beside the result, which is the same as without."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from padd_artifacts.artifact import Artifact
from padd_artifacts.writer import Output
from padd_stages.lib.runtime import profiling
from padd_stages.train import loop
from padd_stages.train import stage as train
from padd_stages.train.options import TrainInputs, TrainOptions

pytestmark = pytest.mark.usefixtures("length_grader")
OPTIONS: dict[str, Any] = {
    "steps": 3,
    "prompts_per_step": 2,
    "num_generations": 2,
    "max_completion_length": 4,
    "checkpoint_every": 1,
}


def run(pico: Any, out: Path, *, resume: bool = False, **options: Any) -> Artifact:
    inputs = TrainInputs(student=str(pico.student), teacher=str(pico.teacher), split=pico.split)
    return train.run(inputs, TrainOptions(**OPTIONS | options), Output(out, resume=resume))


def test_a_profiled_run_has_a_trace_of_its_steps_and_the_same_digest(pico: Any, tmp_path: Path) -> None:
    plain = run(pico, tmp_path / "plain")
    profiled = run(pico, tmp_path / "profiled", profile=1)
    assert profiled.manifest.digest == plain.manifest.digest
    folder = profiled.path / profiling.FOLDER
    assert {path.name for path in folder.iterdir()} == {"rank0.json.gz", "rank0.txt"}
    assert "Self CPU" in (folder / "rank0.txt").read_text()
    with gzip.open(folder / "rank0.json.gz", "rt") as trace:
        names = {event["name"] for event in json.load(trace)["traceEvents"] if "name" in event}
    assert {"ProfilerStep#1", "aten::mm"} <= names
    assert "ProfilerStep#2" not in names
    assert not (plain.path / profiling.FOLDER).exists()


def test_what_an_interrupted_run_has_profiled_is_not_in_the_result(
    pico: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(pico, tmp_path / "whole")
    log = loop.log_step

    def broken(folder: Path, step: int, *args: Any) -> str:
        if step == 3:
            raise KeyboardInterrupt
        return log(folder, step, *args)

    monkeypatch.setattr(loop, "log_step", broken)
    with pytest.raises(KeyboardInterrupt):
        run(pico, tmp_path / "cut", profile=1)
    monkeypatch.setattr(loop, "log_step", log)
    resumed = run(pico, tmp_path / "cut", resume=True)
    assert resumed.manifest.digest == whole.manifest.digest
    assert not (resumed.path / profiling.FOLDER).exists()
