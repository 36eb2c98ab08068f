"""Training whose rollouts a server samples: the same run as with padd's own sampler, and what is wrong stops it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from vllm_server import VllmServer

from padd_artifacts.errors import PaddError, UsageError
from padd_artifacts.work import find
from padd_artifacts.writer import Output
from padd_stages.lib.models.loading import load_model
from padd_stages.lib.sampling import server as http
from padd_stages.lib.sampling.server import EngineError
from padd_stages.train import collecting as collect
from padd_stages.train import engine
from padd_stages.train import stage as train
from padd_stages.train.options import TrainInputs, TrainOptions

SMALL = {
    "steps": 3,
    "prompts_per_step": 2,
    "num_generations": 3,
    "max_completion_length": 5,
    "learning_rate": 1e-2,
    "lr_warmup_steps": 0,
    "lr_schedule": "constant",
    "checkpoint_every": 0,
    "log_shift_every": 0,
    "reward_weights": (1.0, 1.0),
    "eta": 0.0,
    "gamma": 0.0,
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, length_grader: None) -> None:
    monkeypatch.setattr(http, "PAUSES", (0.0, 0.01))
    monkeypatch.setattr(engine, "PROBE_PROMPTS", 2)
    original = collect.respond

    def untruncated(*arguments, **keywords):
        return [replace(r, truncated=False) for r in original(*arguments, **keywords)]

    monkeypatch.setattr(collect, "respond", untruncated)


@pytest.fixture
def served(pico):
    with VllmServer(pico.student) as server:
        yield server


def run(pico, out: Path, *, server: VllmServer | None = None, resume: bool = False, **options):
    inputs = TrainInputs(student=str(pico.student), teacher=str(pico.teacher), split=pico.split)
    if server is not None:
        options |= {"engine": "vllm", "engine_url": server.url}
    return train.run(inputs, TrainOptions(**(SMALL | options)), Output(out, resume=resume))


def weights(artifact) -> dict[str, torch.Tensor]:
    return load_model(str(artifact.path)).model.state_dict()


@pytest.mark.parametrize("replay", ["off", "rollout"])
def test_rollouts_are_those_of_the_reference_and_each_has_new_weights(pico, served, tmp_path, replay):
    mine = run(pico, tmp_path / "mine", router_replay=replay)
    theirs = run(pico, tmp_path / "theirs", server=served, router_replay=replay)
    assert mine.jsonl("samples.jsonl") == theirs.jsonl("samples.jsonl")
    for a, b in zip(mine.jsonl("metrics.jsonl"), theirs.jsonl("metrics.jsonl"), strict=True):
        assert a["policy_kl"] == pytest.approx(b["policy_kl"], rel=1e-3)
        assert b["engine/probe"] < 1e-4
    for name, tensor in weights(mine).items():
        torch.testing.assert_close(weights(theirs)[name], tensor, atol=1e-4, rtol=0)
    assert len(set(served.loaded[1:])) == 3, "one folder a rollout"
    assert not (theirs.path / "engine-weights").exists()


def test_the_bias_reaches_the_server(pico, served, tmp_path):
    artifact = run(pico, tmp_path / "out", server=served, eta=0.05, engine_tolerance=1.0)
    probes = [row["engine/probe"] for row in artifact.jsonl("metrics.jsonl")]
    assert probes[0] < 1e-4, "no bias yet"
    assert 0 < max(probes[1:]) < 0.02
    rows = artifact.jsonl("metrics.jsonl")
    mine = run(pico, tmp_path / "mine", eta=0.05).jsonl("metrics.jsonl")
    assert rows[0]["load/max_vio"] == pytest.approx(mine[0]["load/max_vio"], rel=1e-3)
    assert rows[1]["sampling/sampling_logp_difference/mean"] > 1e-5, "folded, not exact"


def test_a_folded_bias_stays_out_of_the_student(pico, served, tmp_path):
    artifact = run(pico, tmp_path / "out", server=served, eta=0.05, engine_tolerance=1.0, learning_rate=1e-9)
    before = load_model(str(pico.student)).model.state_dict()
    for name, tensor in weights(artifact).items():
        torch.testing.assert_close(tensor, before[name], atol=1e-6, rtol=0)
    assert artifact.jsonl("metrics.jsonl")[-1]["bias/spread"] > 0.05


def test_weights_have_the_names_of_the_hub_and_routers_are_in_fp32(pico_bf16, tmp_path):
    with VllmServer(pico_bf16.student) as server:
        inputs = TrainInputs(student=str(pico_bf16.student), split=pico_bf16.split)
        options = SMALL | {"steps": 1, "kd_weight": 0.0, "drift_lambda": 0.0, "engine_tolerance": 0.5}
        train.run(
            inputs, TrainOptions(**options, engine="vllm", engine_url=server.url), Output(tmp_path / "out")
        )
        types = server.types
    assert "model.layers.0.mlp.experts.0.gate_proj.weight" in types, "not fused"
    routers = {name: kind for name, kind in types.items() if name.endswith("mlp.gate.weight")}
    assert set(routers.values()) == {"torch.float32"}
    assert len(routers) == 2
    assert {kind for name, kind in types.items() if name not in routers} == {"torch.bfloat16"}


def test_a_folder_of_ones_own_keeps_what_else_is_in_it(pico, served, tmp_path):
    shared = tmp_path / "shared"
    (shared / "mine").mkdir(parents=True)
    run(pico, tmp_path / "out", server=served, engine_weights=shared, steps=1)
    assert str(shared) in served.loaded[-1]
    assert [path.name for path in shared.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        ({"ignore_weights": 1}, None),  # the first load: it serves the student already
        ({"ignore_weights": 3}, "its weights are what they were"),
        ({"ignore_weights": 3, "lying_checksums": 1}, "differ from the student's by"),
        ({"other_version": 1}, "answered with weights default"),
    ],
    ids=["the first", "stale", "stale, with new checksums", "other version"],
)
def test_stale_weights_are_caught(pico, served, tmp_path, faults, said, monkeypatch):
    served.faults.update(faults)
    if said is None:
        run(pico, tmp_path / "out", server=served, steps=1)
        return
    with pytest.raises(EngineError, match=said):
        run(pico, tmp_path / "out", server=served, engine_tolerance=0.01)


def test_weights_that_no_update_has_changed_are_no_reason_to_stop(pico, served, tmp_path):
    artifact = run(pico, tmp_path / "out", server=served, learning_rate=1e-30)
    assert len(artifact.jsonl("metrics.jsonl")) == 3


def test_a_server_that_dies_leaves_a_checkpoint_to_resume_from(pico, served, tmp_path):
    whole = run(pico, tmp_path / "whole", server=served)
    with VllmServer(pico.student) as dying:
        dying.faults["die"] = 2 + 6 + 2 + 3  # in the second rollout
        with pytest.raises(EngineError, match=r"--resume\.$"):
            run(pico, tmp_path / "cut", server=dying)
    [left] = find(tmp_path / "cut")
    assert [path.name for path in (left.artifact / "checkpoints").iterdir()] == ["step-000001"]
    with pytest.raises(EngineError):
        run(pico, tmp_path / "cut", server=dying, resume=True)  # still dead
    resumed = run(pico, tmp_path / "cut", server=served, resume=True)
    assert resumed.manifest.digest == whole.manifest.digest


def test_it_sleeps_during_updates(pico, served, tmp_path):
    run(pico, tmp_path / "out", server=served, engine_sleep=True, steps=2)
    assert served.calls["/sleep"] == 2
    assert served.calls["/wake_up"] == 3
    assert not served.sleeping, "it is left as it was found"


def test_what_an_engine_cannot_do_is_refused(pico, served, tmp_path):
    with pytest.raises(UsageError, match="--engine vllm needs"):
        run(pico, tmp_path / "a", engine="vllm")
    with pytest.raises(UsageError, match="--trainable lora with --engine vllm"):
        run(pico, tmp_path / "b", server=served, trainable="lora")
    with pytest.raises(PaddError, match="--max-model-len"), VllmServer(pico.student, longest=20) as short:
        run(pico, tmp_path / "c", server=short)
    assert not list(tmp_path.iterdir())
