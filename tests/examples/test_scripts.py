"""The shell scripts of examples, run by a shell."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from padd_artifacts.artifact import open_artifact

HANGS = 200.0  # seconds after which a script is killed, and the test fails


def sh(script: str, *words: object, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a script with the programs of this environment."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["sh", f"examples/{script}", *map(str, words)],
        env=os.environ | {"PATH": path} | environ,
        capture_output=True,
        text=True,
        timeout=HANGS,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_responses_of_another_engine_are_graded(here: Path) -> None:
    said = sh("grade_responses.sh")
    verdicts = [json.loads(line) for line in said.stdout.splitlines() if line.startswith("{")]
    asked = [json.loads(line) for line in (here / "examples/responses.jsonl").read_text().splitlines()]
    assert [row["id"] for row in verdicts] == [row["id"] for row in asked]
    right = [True, True, True, False, True, False, False, True]
    assert [row["verdict"] for row in verdicts] == right
    assert [row["score"] for row in verdicts] == [float(verdict) for verdict in right]
    assert open_artifact(here / "runs/eval/responses", "evaluation").report["benchmarks"]


@pytest.fixture
def places(here: Path, pico: Any) -> dict[str, str]:
    """What two_processes.sh reads of the environment."""
    found = {"TEACHER": pico.teacher, "STUDENT": pico.student, "SPLIT": pico.split, "OUT": here / "two"}
    return {name: str(path) for name, path in found.items()}


def test_two_processes_are_launched_on_what_the_environment_names(
    here: Path, places: dict[str, str], padd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A launcher that only notes what it is to start; padd then plans the run."""
    fake = here / "bin" / "torchrun"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$OMP_NUM_THREADS" "$@" > started\n', encoding="utf-8")
    fake.chmod(0o755)
    path = os.pathsep.join([str(fake.parent), os.environ["PATH"]])
    monkeypatch.setenv("PATH", path)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    subprocess.run(["sh", "examples/two_processes.sh", "--seed", "3"], env=os.environ | places, check=True)
    threads, *started = (here / "started").read_text(encoding="utf-8").splitlines()
    assert threads == "1"
    launch, run = started[: started.index("train")], started[started.index("train") :]
    assert launch == ["--standalone", "--nproc-per-node", "2", "-m", "padd_cli"]
    assert run[run.index("--out") + 1] == places["OUT"]
    code, err = padd(["padd", *run, "--dry-run"])
    assert code == 0, err


@pytest.mark.slow
def test_two_processes_train_one_student(here: Path, places: dict[str, str]) -> None:
    sh("two_processes.sh", "--steps", 1, **places)
    artifact = open_artifact(here / "two", "student")
    assert artifact.manifest.provenance.run_options["device"] == "cpu"
    assert len(artifact.jsonl("metrics.jsonl")) == 1


@pytest.mark.parametrize("name", ["grade_responses.sh", "two_processes.sh"])
def test_a_script_stops_at_the_first_error(examples: Path, name: str) -> None:
    assert "\nset -eu\n" in (examples / name).read_text(encoding="utf-8")
