"""--teacher-device: where the frozen teacher is loaded, and that what it says is on the student's device."""

from pathlib import Path

import pytest
import torch

from padd_artifacts.errors import UsageError
from padd_artifacts.writer import Output
from padd_stages.lib.data.sequences import TokenSequence
from padd_stages.lib.models import trained
from padd_stages.lib.models.loading import load_model
from padd_stages.lib.models.teacher import Teacher
from padd_stages.train import stage as train
from padd_stages.train.options import TrainInputs, TrainOptions
from padd_stages.warmup import stage as warmup
from padd_stages.warmup.options import WarmupInputs, WarmupOptions


class Loaded(Exception):
    """Both models have been asked for."""


def devices_of(monkeypatch, run) -> list[tuple[str, str]]:
    """Which model the stage loads on which device, student before teacher."""
    seen, original = [], trained.load_model

    def watched(name, **keywords):
        seen.append((Path(name).name, keywords["device"]))
        if len(seen) == 2:
            raise Loaded
        return original(name, **keywords)

    monkeypatch.setattr(trained, "load_model", watched)
    with pytest.raises(Loaded):
        run()
    return seen


def run_train(pico, out: Path, teacher_device: str | None) -> None:
    inputs = TrainInputs(student=str(pico.student), teacher=str(pico.teacher), split=pico.split)
    train.run(inputs, TrainOptions(device="cpu", teacher_device=teacher_device, workers=1), Output(out))


def run_warmup(pico, clusters: Path, out: Path, teacher_device: str | None) -> None:
    inputs = WarmupInputs(
        teacher=str(pico.teacher), student=str(pico.student), clusters=clusters, split=pico.split
    )
    warmup.run(inputs, WarmupOptions(device="cpu", teacher_device=teacher_device, workers=1), Output(out))


@pytest.mark.parametrize(("asked", "given"), [(None, "cpu"), ("cpu:0", "cpu:0")])
def test_the_teacher_is_loaded_where_it_is_asked_for(pico, clusters, tmp_path, monkeypatch, asked, given):
    wanted = [("student", "cpu"), ("teacher", given)]
    out = tmp_path / "out"
    assert devices_of(monkeypatch, lambda: run_train(pico, out, asked)) == wanted
    assert devices_of(monkeypatch, lambda: run_warmup(pico, clusters, out, asked)) == wanted
    assert not out.exists()


def test_what_the_teacher_says_is_on_the_students_device(pico):
    """The student is on the meta device here: anything on it shows that it was moved there."""
    teacher = Teacher(load_model(str(pico.teacher)), load_model(str(pico.student), device="meta"))
    states = teacher.states([TokenSequence((3, 5), (7, 9, 11))], [(2, 9, 4)])
    assert teacher.policy.head.weight.device == torch.device("cpu")
    assert {states.hidden.device.type, states.comparable.device.type, teacher.head.weight.device.type} == {
        "meta"
    }
    assert states.hidden.shape == (3, 24)


@pytest.mark.parametrize(
    ("device", "message"), [("abacus", "--teacher-device abacus cannot"), ("shard", "there is only one")]
)
def test_places_that_do_not_exist_are_refused(pico, tmp_path, device, message):
    with pytest.raises(UsageError, match=message):
        run_train(pico, tmp_path / "out", device)
    assert not (tmp_path / "out").exists()
