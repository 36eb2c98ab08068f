"""A run that is killed by SIGKILL and resumed ends byte for byte like one that was not."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from padd_artifacts.artifact import open_artifact

OPTIONS = {
    "steps": 5,
    "prompts_per_step": 2,
    "num_generations": 3,
    "max_completion_length": 5,
    "learning_rate": 1e-2,
    "lr_warmup_steps": 0,
    "eta": 0.1,
    "beta_ref": 0.1,
    "checkpoint_every": 1,
    "keep_checkpoints": 1,
    "truncated": "keep",
}
REWARD = "def length(completions, **columns):\n    return [len(c) % 7 / 7 for c in completions]\n"


def run_with_kills(pico: Any, folder: Path, *, kills: int, seed: int, **options: Any) -> dict[str, Any]:
    rewards = folder / "rewards_of_killed_runs.py"
    rewards.write_text(REWARD)
    spec = {
        "inputs": {
            "student": str(pico.student),
            "teacher": str(pico.teacher),
            "split": str(pico.split),
        },
        "options": OPTIONS | {"reward": [f"{rewards}:length"]} | options,
        "folder": str(folder),
        "kills": kills,
        "seed": seed,
    }
    program = Path(__file__).with_name("killed_runs.py")
    done = subprocess.run(
        [sys.executable, str(program), json.dumps(spec)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def check(folder: Path, found: dict[str, Any]) -> None:
    whole = open_artifact(folder / "whole", "student")
    rewards = [row["reward"] for row in whole.jsonl("metrics.jsonl")]
    assert len(set(rewards)) == len(rewards), "every rollout looks different"
    stable = [name for name, entry in whole.manifest.files.items() if not entry.volatile]
    assert {"model.safetensors", "router_state.safetensors", "metrics.jsonl", "samples.jsonl"} <= {*stable}
    for run in found["runs"]:
        again = open_artifact(run, "student")
        for name in stable:
            assert again.file(name).read_bytes() == whole.file(name).read_bytes(), (run, name)
        assert again.manifest.digest == whole.manifest.digest
        assert {*again.manifest.files} == {*whole.manifest.files}


def test_killed_and_resumed_runs_end_byte_for_byte_like_a_whole_one(pico: Any, tmp_path: Path) -> None:
    found = run_with_kills(pico, tmp_path, kills=12, seed=0)
    assert len(found["deaths"]) >= 12
    assert found["resumed"] >= 6, found
    assert {"save_file", "time"} <= {*found["deaths"]}, "none died while a checkpoint was being written"
    print(found)
    check(tmp_path, found)


@pytest.mark.slow
@pytest.mark.parametrize("export", ["last", "best"])
def test_a_hundred_kills(pico: Any, tmp_path: Path, export: str) -> None:
    found = run_with_kills(pico, tmp_path, kills=100, seed=1, export=export)
    assert {"save_file", "replace", "unlink", "truncate", "rmtree", "time"} == {*found["deaths"]}
    print(found)
    check(tmp_path, found)
