import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from padd_stages.toy import recipe
from padd_stages.toy.pretraining import Schedule
from padd_stages.toy.unpack import shipped_manifest


def tiny(steps: int, **options) -> Schedule:
    return Schedule(steps=steps, learning_rate=1e-3, seed=4, batch_size=5, warmup_steps=0, **options)


@pytest.fixture
def short(monkeypatch):
    """The whole recipe, in seconds."""
    monkeypatch.setattr(recipe, "TEACHER_SCHEDULES", (tiny(2), tiny(1)))
    monkeypatch.setattr(recipe, "STUDENT_SCHEDULES", (tiny(3, corrupted=0.5),))
    monkeypatch.setattr(recipe, "PRETRAINING_PROBLEMS", 70)
    monkeypatch.setattr(recipe, "HELD_OUT_PROBLEMS", 7)


class Recorder:
    def __init__(self):
        self.phases, self.steps = [], 0

    def phase(self, name, total=None):
        self.phases.append((name, total))

    def advance(self, n=1, line=""):
        self.steps += n

    def note(self, text):
        raise AssertionError(text)

    warn = note


def test_build_writes_two_models_and_its_report(short, tmp_path):
    recorder = Recorder()
    report = recipe.build(tmp_path, recorder)
    assert json.loads((tmp_path / "toy.json").read_text()) == json.loads(json.dumps(report))
    assert recorder.steps == 6
    assert [total for _, total in recorder.phases] == [2, 1, 3]
    assert report["student"]["schedules"][0]["corrupted"] == 0.5
    for name in ("teacher", "student"):
        model = AutoModelForCausalLM.from_pretrained(tmp_path / name)
        for tensor in model.parameters():
            assert torch.equal(tensor, tensor.to(torch.bfloat16).to(torch.float32)), "not what is shipped"
    assert model.config.router_aux_loss_coef == 0.0


def test_build_repeats_itself_and_leaves_torch_as_it_was(short, tmp_path):
    state = torch.get_rng_state()
    first = recipe.build(tmp_path / "a")
    second = recipe.build(tmp_path / "b")
    assert first == second
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.are_deterministic_algorithms_enabled()
    for name in ("teacher", "student"):
        weights = [(tmp_path / run / name / "model.safetensors").read_bytes() for run in "ab"]
        assert weights[0] == weights[1]


def test_shipped_weights_come_from_this_recipe():
    shipped = shipped_manifest()["toy"]
    assert shipped["teacher"]["schedules"] == [vars(schedule) for schedule in recipe.TEACHER_SCHEDULES]
    assert shipped["student"]["schedules"] == [vars(schedule) for schedule in recipe.STUDENT_SCHEDULES]
    assert shipped["pretraining"]["seed"] == recipe.PRETRAINING_SEED
    assert shipped["pretraining"]["problems"] == recipe.PRETRAINING_PROBLEMS


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_build_reaches_the_promised_accuracy(tmp_path):
    report = recipe.build(tmp_path)
    assert report["teacher"]["greedy"]["all"] > 0.9
    assert 0.58 <= report["student"]["greedy"]["all"] <= 0.82
    assert 0.32 <= report["student"]["sampled"]["all"] <= 0.58
