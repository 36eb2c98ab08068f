"""A training whose disk runs full at a checkpoint goes on from the one before, to the same bytes."""

from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from padd_artifacts.artifact import Artifact
from padd_artifacts.errors import PaddError
from padd_artifacts.work import find
from padd_artifacts.writer import Output
from padd_stages.lib.runtime import checkpoints, parts
from padd_stages.train import stage as train
from padd_stages.train.options import TrainInputs, TrainOptions

pytestmark = pytest.mark.usefixtures("length_grader")
OPTIONS: dict[str, Any] = {
    "steps": 3,
    "prompts_per_step": 2,
    "num_generations": 2,
    "max_completion_length": 5,
    "checkpoint_every": 1,
}


def run(pico: Any, out: Path, *, resume: bool = False) -> Artifact:
    inputs = TrainInputs(student=str(pico.student), teacher=str(pico.teacher), split=pico.split)
    return train.run(inputs, TrainOptions(**OPTIONS), Output(out, resume=resume))


def test_a_disk_that_runs_full_at_the_second_checkpoint(
    pico: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(pico, tmp_path / "whole")
    save = parts.save_file

    def full(tensors: Any, path: Path, metadata: dict[str, str]) -> None:
        save(tensors, path, metadata)
        if path.parent.name == "step-000002" and path.name.startswith(checkpoints.OPTIMIZER):
            path.write_bytes(path.read_bytes()[:1000])
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(parts, "save_file", full)
    with pytest.raises(
        PaddError, match=r"^the checkpoint of step 2 needs \d.* and the disk ran full"
    ) as caught:
        run(pico, tmp_path / "cut")
    assert "make space and go on with --resume" in str(caught.value)
    [left] = find(tmp_path / "cut")
    assert [path.name for path in (left.artifact / "checkpoints").iterdir()] == ["step-000001"]
    monkeypatch.setattr(parts, "save_file", save)
    assert run(pico, tmp_path / "cut", resume=True).manifest.digest == whole.manifest.digest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut", "whole"]
