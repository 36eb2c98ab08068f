"""Two processes with gloo on the CPU take the steps of one; failed, killed and resumed they do too.

They are started as a launcher starts them, by the environment: torchrun itself would take seconds more.
"""

import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from vllm_server import VllmServer

from padd_artifacts.artifact import open_artifact
from padd_artifacts.work import find

HANGS = 100.0  # seconds after which a process is killed, and the test fails
FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}  # as accelerate launch says it
OPTIONS = {
    "steps": 4,
    "prompts-per-step": 4,
    "num-generations": 3,
    "max-completion-length": 7,
    "micro-batch-tokens": 60,
    "learning-rate": 3e-3,
    "lr-warmup-steps": 1,
    "lr-schedule": "linear",
    "eta": 0.1,
    "gamma": 0.1,
    "beta-ref": 0.1,
    "checkpoint-every": 1,
    "export": "best",
    "log-samples": 99,
    "log-shift-every": 2,
    "mini-batches": 2,
    "truncated": "keep",
    "entropy-coef": 0.01,
    "router-aux-loss-coef": 0.01,
}
# Fails or dies in one process at the rollout that the environment names; its file is the same in every run.
REWARD = """
import os, signal
calls = 0

def length(completions, **columns):
    global calls
    calls += 1
    if os.environ.get("RANK") == "1" and calls == int(os.environ.get("FAIL_AT", "0")):
        raise ValueError("one process fails")
    if os.environ.get("RANK") == "1" and calls == int(os.environ.get("DIE_AT", "0")):
        os.kill(os.getpid(), signal.SIGKILL)
    return [len(c) % 7 / 7 for c in completions]
"""


@dataclass(frozen=True)
class Ended:
    """Exit codes, stdouts and stderrs of the processes, by rank."""

    codes: list[int]
    out: list[str]
    err: list[str]


class Runs:
    """Runs of a stage command in a folder of their own."""

    def __init__(self, command: str, folder: Path, **values: Any) -> None:
        self.folder = folder
        self.command = [sys.executable, "-m", "padd_cli", command, "--device", "cpu"]
        if command in ("train", "warmup", "eval"):
            values["workers"] = 1
        for flag, value in values.items():
            self.command += [f"--{flag.replace('_', '-')}", str(value)]

    def start(self, world: int, name: str, *flags: str, kill_at: str = "", **environ: str) -> Ended:
        """Run to the end, or kill all processes once the file ``kill_at`` is there in the work folder."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        common |= {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)} | environ
        processes = [
            subprocess.Popen(
                [*self.command, "--out", str(self.folder / name), *flags],
                env=os.environ | common | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if world > 1 else {}),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(world)
        ]
        try:
            while kill_at and not any(
                (left.artifact / kill_at).exists() for left in find(self.folder / name)
            ):
                time.sleep(0.05)
            for process in processes if kill_at else []:
                process.kill()
            said = [process.communicate(timeout=HANGS) for process in processes]
        finally:
            for process in processes:
                process.kill()
        return Ended([process.returncode for process in processes], *map(list, zip(*said, strict=True)))

    def finished(self, world: int, name: str, *flags: str, **environ: str) -> Path:
        ended = self.start(world, name, *flags, **environ)
        assert ended.codes == [0] * world, ended.err
        assert [name in out for out in ended.out] == [True] + [False] * (world - 1), "one shows the result"
        return self.folder / name


@pytest.fixture(scope="module")
def runs(pico: Any, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("processes")
    return Runs("train", folder, **inputs(pico), **OPTIONS, reward=reward_file(folder))


def inputs(pair: Any) -> dict[str, Any]:
    return {"student": pair.student, "teacher": pair.teacher, "split": pair.split}


def reward_file(folder: Path) -> str:
    (folder / "rewards_of_processes.py").write_text(REWARD)
    return f"{folder / 'rewards_of_processes.py'}:length"


@pytest.fixture(scope="module")
def one(runs: Runs) -> Path:
    return runs.finished(1, "one")


@pytest.fixture(scope="module")
def two(runs: Runs) -> Path:
    return runs.finished(2, "two")


def same(left: Any, right: Any, name: str = "") -> bool:
    """Equal up to the order of summation: 1e-4 relative, in fp32; of what is sampled from each process's part, 5 %."""
    if isinstance(left, str | None):
        return left == right
    if name == "engine/probe":
        return left < 0.01 and right < 0.01  # each process has prompts of its own
    rel, absolute = (0.05, 1e-4) if name.startswith(("update/", "sampling/")) else (1e-4, 1e-6)
    return left == pytest.approx(right, rel=rel, abs=absolute)


def check_same_steps(left_path: Path, right_path: Path) -> None:
    """Samples and metrics to 1e-4, weights and router bias to 2e-5; and every term of the loss was there."""
    one, other = (open_artifact(path, "student") for path in (left_path, right_path))
    samples = [artifact.jsonl("samples.jsonl") for artifact in (one, other)]
    assert len(samples[0]) == 4 * 4 * 3
    for before, after in zip(*samples, strict=True):
        assert [name for name in before if not same(after[name], before[name])] == []
    rows = [artifact.jsonl("metrics.jsonl") for artifact in (one, other)]
    for before, after in zip(*rows, strict=True):
        assert list(after) == list(before)
        assert {n: (after[n], before[n]) for n in before if not same(after[n], before[n], n)} == {}
    routing = [artifact.jsonl("routing.jsonl") for artifact in (one, other)]
    for before, after in zip(*routing, strict=True):
        assert [same(after[name], before[name]) for name in ("load_entropy", "max_vio", "dead")] == [True] * 3
    assert [row.get("router_shift", {}).get("tokens", 0) > 0 for row in routing[0]] == [
        False,
        True,
        False,
        True,
    ]
    last = rows[0][-1]
    assert (
        min(last["grad_norm"], last["kd/loss"], last["kl"], last["drift/scale"], last["bias/spread"]) > 1e-5
    )
    for file in ("router_state.safetensors", "model.safetensors"):
        left, right = load_file(one.file(file)), load_file(other.file(file))
        assert {name: float((left[name] - right[name]).abs().max()) for name in left} == pytest.approx(
            dict.fromkeys(left, 0), abs=2e-5
        )


def kept(runs: Runs, name: str) -> Path:
    """What an interrupted run has left."""
    [left] = find(runs.folder / name)
    return left.artifact


def test_two_processes_take_the_steps_of_one(one, two):
    check_same_steps(one, two)


def test_sharded_killed_and_resumed_takes_the_steps_of_one(runs, one):
    """Student, reference and teacher sharded by FSDP2, layers checkpointed, one process killed by SIGKILL."""
    flags = ("--teacher-device", "shard", "--gradient-checkpointing")
    killed = runs.start(2, "sharded", *flags, DIE_AT="3", **FSDP2)
    assert killed.codes == [1, -9], killed.err
    checkpoint = kept(runs, "sharded") / "checkpoints" / "step-000002"
    assert {path.name for path in checkpoint.iterdir()} == {
        *(f"{kind}-0000{rank}-00000.safetensors" for kind in ("model", "optimizer") for rank in (0, 1)),
        "state.json",
    }
    check_same_steps(one, runs.finished(2, "sharded", *flags, "--resume", **FSDP2))


@pytest.mark.slow
def test_halves_of_a_rollout_have_one_cosine_on_two_processes(pico, tmp_path):
    options = OPTIONS | {"mini-batches": 1, "log-noise-every": 1, "reward": reward_file(tmp_path)}
    runs = Runs("train", tmp_path, **inputs(pico), **options)
    alone = runs.finished(1, "alone")
    assert all(0 < abs(row["noise/cosine"]) < 1 for row in open_artifact(alone).jsonl("metrics.jsonl"))
    check_same_steps(alone, runs.finished(2, "copies"))
    check_same_steps(alone, runs.finished(2, "parts", **FSDP2))


@pytest.mark.slow
def test_an_engine_samples_for_two_processes_as_for_one(pico, tmp_path):
    """Whole and sharded students; a rollout of one process that fails ends both, and a checkpoint is there."""
    options = OPTIONS | {"engine": "vllm", "engine-tolerance": 1, "reward": reward_file(tmp_path)}
    with VllmServer(pico.student) as server:
        runs = Runs("train", tmp_path, **inputs(pico), **options, engine_url=server.url)
        alone = runs.finished(1, "alone")
        check_same_steps(alone, runs.finished(2, "sharded", **FSDP2))
        server.faults["stop_early"] = 1
        ended = runs.start(2, "failed", "--export", "last")
    assert ended.codes == [1, 1]
    assert sorted(error.count("ended a response with token 0") for error in ended.err) == [0, 1], (
        "one sentence"
    )


@pytest.mark.slow
def test_a_sharded_run_resumes_bit_for_bit_and_with_another_number_of_processes(runs, one):
    whole = runs.finished(2, "parts", **FSDP2)
    for name in ("cut", "fewer"):
        assert runs.start(2, name, DIE_AT="2", **FSDP2).codes == [1, -9]
    again = runs.finished(2, "cut", "--resume", **FSDP2)
    assert open_artifact(again).manifest.digest == open_artifact(whole).manifest.digest
    check_same_steps(one, runs.finished(1, "fewer", "--resume"))


def test_an_error_in_one_process_ends_all_with_one_sentence(runs):
    failed = runs.start(2, "failed", FAIL_AT="1")
    assert failed.codes == [1, 1]
    assert [err.count("error: ") for err in failed.err] == [0, 1], failed.err
    assert "the reward 'length' failed with ValueError: one process fails" in failed.err[1]
    assert find(runs.folder / "failed") == []


def test_killed_and_resumed_is_uninterrupted(runs, two):
    killed = runs.start(2, "cut", DIE_AT="3")
    assert killed.codes == [1, -9]
    assert "error: another process of this run has ended" in killed.err[0]
    assert (kept(runs, "cut") / "checkpoints" / "step-000002").is_dir()
    resumed = open_artifact(runs.finished(2, "cut", "--resume"))
    assert resumed.manifest.digest == open_artifact(two).manifest.digest


@pytest.fixture(scope="module")
def warmups(pico: Any, clusters: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(
        "warmup",
        tmp_path_factory.mktemp("warmups"),
        **inputs(pico),
        clusters=clusters,
        steps=4,
        batch_size=6,
        learning_rate=1e-2,
        lr_warmup_steps=0,
        max_length=90,
        max_new_tokens=5,
        checkpoint_every=1,
        held_out=0.2,
        micro_batch_tokens=150,
        beta=3.0,
    )


def check_same_warmup(left_path: Path, right_path: Path) -> None:
    """Metrics and the report on held-out rows to 1e-4, weights to 2e-5."""
    one, other = (open_artifact(path, "student") for path in (left_path, right_path))
    for before, after in zip(one.jsonl("metrics.jsonl"), other.jsonl("metrics.jsonl"), strict=True):
        assert list(after) == list(before)
        assert {n: (after[n], before[n]) for n in before if not same(after[n], before[n], n)} == {}
    assert one.report["after"]["topk"]["loss"] < one.report["before"]["topk"]["loss"]
    for state in ("base", "before", "after"):
        for routing, numbers in one.report[state].items():
            assert [n for n, v in numbers.items() if not same(other.report[state][routing][n], v)] == []
    left, right = (load_file(artifact.file("model.safetensors")) for artifact in (one, other))
    assert {name: float((left[name] - right[name]).abs().max()) for name in left} == pytest.approx(
        dict.fromkeys(left, 0), abs=2e-5
    )


@pytest.fixture(scope="module")
def warmup_one(warmups: Runs) -> Path:
    return warmups.finished(1, "one")


def test_warmup_on_two_processes_takes_the_steps_of_one(warmups, warmup_one):
    check_same_warmup(warmup_one, warmups.finished(2, "two"))


def test_warmup_sharded_killed_and_resumed_takes_the_steps_of_one(warmups, warmup_one):
    """Both models sharded, layers checkpointed, killed while it trains."""
    flags = ("--teacher-device", "shard", "--gradient-checkpointing")
    killed = warmups.start(2, "cut", *flags, kill_at="checkpoints/step-000002/state.json", **FSDP2)
    assert killed.codes == [-9, -9]
    check_same_warmup(warmup_one, warmups.finished(2, "cut", *flags, "--resume", **FSDP2))


@pytest.mark.slow
def test_every_way_of_warmup_is_the_same_on_two_processes(warmups):
    flags = ("--init-target", "token", "--warmup-routing", "anneal")
    one = warmups.finished(1, "one-token", *flags)
    check_same_warmup(one, warmups.finished(2, "two-token", *flags))


@pytest.fixture(scope="module")
def in_bf16(pico_bf16: Any, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("bf16")
    options = OPTIONS | {"steps": 2, "learning-rate": 1e-5, "export": "last", "beta-ref": 0}
    return Runs("train", folder, **inputs(pico_bf16), **options, reward=reward_file(folder))


@pytest.mark.parametrize(
    "environ", [FSDP2, pytest.param({}, marks=pytest.mark.slow)], ids=["parts", "copies"]
)
def test_bf16_on_two_processes_begins_as_on_one(in_bf16, environ):
    """Later rollouts differ: a draw falls otherwise within bf16's rounding, which depends on the batch."""
    one = open_artifact(in_bf16.finished(1, f"one-{len(environ)}"))
    two = open_artifact(in_bf16.finished(2, f"two-{len(environ)}", **environ))
    before, after = (artifact.jsonl("metrics.jsonl")[0] for artifact in (one, two))
    for name in ("grad_norm", "kd/kl", "entropy", "update/relative"):
        assert after[name] == pytest.approx(before[name], rel=0.1), name
    assert min(before["update/moved"], after["update/moved"]) > 0.95
    assert before["sampling/sampling_logp_difference/mean"] < 0.05
    assert {value.dtype for value in load_file(two.file("model.safetensors")).values()} == {torch.bfloat16}


@pytest.mark.slow
@pytest.mark.parametrize("environ", [FSDP2, {}], ids=["parts", "copies"])
def test_bf16_killed_and_resumed_is_uninterrupted(in_bf16, environ):
    whole = in_bf16.finished(2, f"whole-{len(environ)}", **environ)
    assert in_bf16.start(2, f"cut-{len(environ)}", DIE_AT="2", **environ).codes == [1, -9]
    resumed = in_bf16.finished(2, f"cut-{len(environ)}", "--resume", **environ)
    assert open_artifact(resumed).manifest.digest == open_artifact(whole).manifest.digest


@pytest.mark.slow
def test_sharded_8_bit_moments_killed_and_resumed_are_uninterrupted(pico_8bit, tmp_path):
    options = OPTIONS | {"steps": 2, "optimizer": "adamw-8bit", "export": "last", "beta-ref": 0}
    runs = Runs("train", tmp_path, **inputs(pico_8bit), **options, reward=reward_file(tmp_path))
    whole = runs.finished(2, "whole", **FSDP2)
    assert runs.start(2, "cut", DIE_AT="2", **FSDP2).codes == [1, -9]
    resumed = runs.finished(2, "cut", "--resume", **FSDP2)
    assert open_artifact(resumed).manifest.digest == open_artifact(whole).manifest.digest


@pytest.mark.slow
def test_sharded_factors_killed_and_resumed_take_the_steps_of_one(pico, tmp_path):
    """Of LoRA; the student of the result is the merged one."""
    options = OPTIONS | {"trainable": "lora", "lora-r": 2, "learning-rate": 1e-2}
    options |= {
        "dynamic-sampling": 1,
        "router-replay": "rollout",
    }  # routes of groups that move between processes
    runs = Runs("train", tmp_path, **inputs(pico), **options, reward=reward_file(tmp_path))
    flags = [flag for name in ("attention", "experts", "routers") for flag in ("--lora-target", name)]
    one = runs.finished(1, "one", *flags)
    assert runs.start(2, "cut", *flags, DIE_AT="3", **FSDP2).codes == [1, -9]
    check_same_steps(one, runs.finished(2, "cut", *flags, "--resume", **FSDP2))


@pytest.fixture(scope="module")
def evaluations(pico: Any, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("evaluations")
    values = {"samples": 3, "temperature": 1.0, "max_new_tokens": 8, "generation_batch_tokens": 200}
    return Runs("eval", folder, model=pico.student, problems=pico.split, **values)


def test_an_evaluation_on_two_processes_killed_and_resumed_is_that_of_one(evaluations):
    """The digest: sums over a response run in the same order, whatever the batch, on this machine's kernels."""
    one = open_artifact(evaluations.finished(1, "one"))
    killed = evaluations.start(2, "two", kill_at="journal-1.jsonl")
    assert killed.codes == [-9, -9]
    two = open_artifact(evaluations.finished(2, "two", "--resume"))
    texts = [[row["response"] for row in artifact.jsonl("responses.jsonl")] for artifact in (one, two)]
    assert texts[0] == texts[1]
    assert two.report == one.report
    assert not list(two.path.glob("journal*"))


@pytest.mark.slow
def test_a_sharded_evaluation_is_that_of_one_process(evaluations):
    one = open_artifact(evaluations.finished(1, "whole"))
    parts = open_artifact(evaluations.finished(2, "parts", **FSDP2))
    assert parts.report == one.report


@pytest.fixture(scope="module")
def clusterings(pico: Any, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs("cluster", tmp_path_factory.mktemp("clusterings"), **inputs(pico), batch_tokens=300)


@pytest.fixture(scope="module")
def clustering_one(clusterings: Runs) -> Path:
    return clusterings.finished(1, "one")


def check_same_clusters(left_path: Path, right_path: Path) -> None:
    """The same clusters; rows and targets to 2e-5, which are sums over texts in another order; numbers to 1e-4."""
    one, other = (open_artifact(path, "clusters") for path in (left_path, right_path))
    assert {n: v for n, v in flat(one.report).items() if not same(flat(other.report)[n], v)} == {}
    assert one.report["tokens"]["held_out"] > 0
    for name in ("teacher_layers.safetensors", "student_layers.safetensors"):
        left, right = (artifact.tensors(name) for artifact in (one, other))
        assert list(left) == list(right)
        for key, values in left.items():
            torch.testing.assert_close(right[key], values, atol=2e-5, rtol=1e-4)


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Return the leaves of nested objects and lists by their path."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return {name: value}
    return {path: leaf for key, part in value.items() for path, leaf in flat(part, f"{name}/{key}").items()}


def test_clusters_of_two_processes_killed_and_resumed_are_those_of_one(clusterings, clustering_one):
    killed = clusterings.start(2, "two", kill_at="layers/000.json")
    assert killed.codes == [-9, -9]
    check_same_clusters(clustering_one, clusterings.finished(2, "two", "--resume"))


@pytest.mark.parametrize(
    "environ", [FSDP2, pytest.param({}, marks=pytest.mark.slow)], ids=["both", "teacher"]
)
def test_clusters_of_sharded_models_are_those_of_one_process(clusterings, clustering_one, environ):
    flags = () if environ else ("--teacher-device", "shard")
    name = f"sharded-{len(environ)}"
    check_same_clusters(clustering_one, clusterings.finished(2, name, *flags, **environ))


@pytest.fixture(scope="module")
def analyses(pico: Any, clusters: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    values = {"clusters": clusters, "base": pico.student, "batch_tokens": 300, "probe_tokens": 400}
    return Runs("analyze-experts", tmp_path_factory.mktemp("analyses"), **inputs(pico), **values)


@pytest.mark.parametrize(
    "environ", [{}, pytest.param(FSDP2, marks=pytest.mark.slow)], ids=["whole", "sharded"]
)
def test_an_analysis_on_two_processes_is_that_of_one(analyses, environ):
    """The counts and paths exactly; sums over texts, in another order, to 1e-4."""
    one, two = (
        open_artifact(analyses.finished(world, f"{world}-{len(environ)}", **(environ if world > 1 else {})))
        for world in (1, 2)
    )
    assert {n: v for n, v in flat(one.report).items() if not same(flat(two.report)[n], v)} == {}
    assert one.report["models"]["student"]["paths"]["tokens"] > 0
    assert one.report["models"]["student"]["cluster_agreement"]["measure"] == "activations over tokens"
    left, right = (artifact.tensors("routing.safetensors") for artifact in (one, two))
    assert list(left) == list(right)
    assert torch.equal(left["student.counts"], right["student.counts"])
    for key, values in left.items():
        torch.testing.assert_close(right[key].float(), values.float(), atol=1e-3, rtol=1e-3, equal_nan=True)
    assert {path.name for path in (two.path / "figures").iterdir()} == {
        path.name for path in (one.path / "figures").iterdir()
    }
