"""The fused loop: what it writes, what its stages change, and that resuming changes nothing."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from padd_artifacts.artifact import Artifact, open_artifact
from padd_artifacts.errors import PaddError, UsageError
from padd_artifacts.work import find
from padd_artifacts.writer import Output
from padd_stages.lib.models.loading import load_model
from padd_stages.lib.runtime.reporter import SILENT
from padd_stages.train import loop
from padd_stages.train import stage as train
from padd_stages.train.options import TrainInputs, TrainOptions
from padd_stages.train.rollout import make_prompts

STAGES_OFF = {"kd_weight": 0.0, "drift_lambda": 0.0, "eta": 0.0, "gamma": 0.0}
SMALL = {
    "steps": 3,
    "prompts_per_step": 3,
    "num_generations": 4,
    "max_completion_length": 6,
    "learning_rate": 1e-2,
    "lr_warmup_steps": 0,
    "lr_schedule": "constant",
    "checkpoint_every": 1,
    "log_shift_every": 2,
    "reward_weights": (1.0, 1.0),
}


@pytest.fixture(autouse=True)
def _fast_grader(monkeypatch: pytest.MonkeyPatch, length_grader: None) -> None:
    from padd_stages.train import collecting as collect

    # the whole response counts: with random weights almost every response is cut off
    original = collect.respond

    def untruncated(*arguments, **keywords):
        responses = original(*arguments, **keywords)
        return [replace(r, truncated=False) for r in responses]

    monkeypatch.setattr(collect, "respond", untruncated)


def run(pico, out: Path, *, resume: bool = False, **options) -> Artifact:
    inputs = TrainInputs(student=str(pico.student), teacher=str(pico.teacher), split=pico.split)
    return train.run(inputs, TrainOptions(**(SMALL | options)), Output(out, resume=resume))


def weights(artifact: Artifact) -> dict[str, torch.Tensor]:
    return load_model(str(artifact.path)).model.state_dict()


def test_a_run_writes_a_student_that_loads_with_its_bias(pico, tmp_path):
    artifact = run(pico, tmp_path / "out", eta=0.1)
    rows = artifact.jsonl("metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert rows[-1]["policy_kl"] > 0
    assert rows[-1]["drift/gamma_all_mean"] > 0
    assert rows[-1]["drift/weight_mean"] < 1
    assert rows[-1]["kd/kl"] > 0
    student = load_model(str(artifact.path))
    assert student.adapter is not None
    assert student.adapter.bias.abs().max() > 0
    assert torch.allclose(student.adapter.bias.mean(-1), torch.zeros(2), atol=1e-6)
    assert not (artifact.path / "checkpoints").exists()
    assert len(artifact.jsonl("samples.jsonl")) == 3 * 4


def test_the_same_seed_gives_the_same_digest(pico, tmp_path):
    first, second = run(pico, tmp_path / "a"), run(pico, tmp_path / "b")
    assert first.manifest.digest == second.manifest.digest
    other = run(pico, tmp_path / "c", seed=1)
    assert other.manifest.digest != first.manifest.digest


def test_resuming_from_a_checkpoint_equals_running_through(pico, tmp_path, monkeypatch):
    whole = run(pico, tmp_path / "whole")
    calls = {"n": 0}
    original = loop.Collector.collect

    def failing(*arguments):
        calls["n"] += 1
        if calls["n"] == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(loop.Collector, "collect", failing)
    with pytest.raises(KeyboardInterrupt):
        run(pico, tmp_path / "cut")
    monkeypatch.setattr(loop.Collector, "collect", original)
    [left] = find(tmp_path / "cut")
    assert (left.artifact / "checkpoints" / "step-000002").is_dir()
    with (left.artifact / "metrics.jsonl").open("a") as handle:
        handle.write('{"step": 3, "half a li')
    resumed = run(pico, tmp_path / "cut", resume=True)
    assert resumed.manifest.digest == whole.manifest.digest


def test_resume_refuses_other_options_and_keeps_the_run(pico, tmp_path, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "final_report", stop)
    with pytest.raises(KeyboardInterrupt):
        run(pico, tmp_path / "cut", steps=1)
    with pytest.raises(PaddError, match="other inputs or options"):
        run(pico, tmp_path / "cut", steps=1, kappa=0.9, resume=True)
    [left] = find(tmp_path / "cut")
    assert (left.artifact / "checkpoints" / "step-000001").is_dir()
    with pytest.raises(PaddError, match="nothing to resume"):
        run(pico, tmp_path / "none", resume=True)


def test_a_method_that_cannot_act_is_refused(pico, tmp_path):
    with pytest.raises(UsageError, match="num-iterations 1"):
        run(pico, tmp_path / "one", num_iterations=1)
    dense = TrainInputs(student=str(pico.teacher), teacher=str(pico.teacher), split=pico.split)
    with pytest.raises(PaddError, match="dense"):
        train.run(dense, TrainOptions(**SMALL), Output(tmp_path / "dense"))
    without = TrainInputs(student=str(pico.student), split=pico.split)
    with pytest.raises(UsageError, match="teacher"):
        train.plan(without, TrainOptions(**SMALL))
    assert list(tmp_path.iterdir()) == []


def test_prompts_that_do_not_divide_among_processes_are_refused(pico, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="--prompts-per-step 3 cannot be divided among 2 processes"):
        run(pico, tmp_path / "odd")
    assert list(tmp_path.iterdir()) == []


def test_a_dense_model_trains_with_plain_grpo(pico, tmp_path):
    inputs = TrainInputs(student=str(pico.teacher), split=pico.split)
    artifact = train.run(inputs, TrainOptions(**(SMALL | STAGES_OFF)), Output(tmp_path / "teacher"))
    assert "drift/gamma_all_mean" not in artifact.jsonl("metrics.jsonl")[0]
    assert load_model(str(artifact.path)).adapter is None


def test_a_student_without_its_router_state_is_refused(pico, tmp_path):
    artifact = run(pico, tmp_path / "out", steps=1)
    bare = tmp_path / "bare"
    shutil.copytree(artifact.path, bare)
    (bare / "manifest.json").unlink()  # a plain folder, as after a copy to another place
    (bare / "router_state.safetensors").unlink()
    with pytest.raises(PaddError, match="router bias"):
        load_model(str(bare))
    config = json.loads((bare / "config.json").read_text())
    assert config["padd"]["bias_mode"] == "logits"


def test_a_changed_byte_in_a_student_is_noticed(pico, tmp_path):
    artifact = run(pico, tmp_path / "out", steps=1)
    path = artifact.path / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(PaddError, match="changed"):
        open_artifact(artifact.path, "student")


def test_tokens_beyond_the_teachers_positions_are_told_once_and_logged(pico, tmp_path, monkeypatch):
    student, teacher = load_model(str(pico.student)), load_model(str(pico.teacher))
    rows = open_artifact(pico.split, "split").jsonl("c.jsonl")
    prompts, _ = make_prompts(rows, student, teacher, TrainOptions(**SMALL))
    shortest = min(len(prompt.teacher_ids) for prompt in prompts)
    told: list[str] = []
    inputs = TrainInputs(student=str(pico.student), teacher=str(pico.teacher), split=pico.split)
    options = TrainOptions(**SMALL, teacher_max_positions=shortest + 3)  # of six response tokens
    monkeypatch.setattr(SILENT, "warn", told.append)
    artifact = train.run(inputs, options, Output(tmp_path / "out"))
    for row in artifact.jsonl("metrics.jsonl"):
        assert 0 < row["kd/beyond_positions"] <= 1 - row["kd/compared"] < 1
    assert [text for text in told if "beyond the teacher's" in text] == told[:1]
    with pytest.raises(PaddError, match="no response token can be compared"):
        train.run(inputs, options.model_copy(update={"teacher_max_positions": 1}), Output(tmp_path / "none"))
