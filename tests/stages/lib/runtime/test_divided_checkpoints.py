"""Checkpoints of two processes (gloo, CPU), resumed by two or by one, sharded or whole."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).with_name("divided_checkpoints.py")
HANGS = 200.0  # seconds after which the processes are killed
KINDS = ("whole", "parts", "one")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What both processes found."""
    folder = tmp_path_factory.mktemp("divided")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environ = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(folder)],
            env=os.environ | environ | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        out = [process.communicate(timeout=HANGS)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0]
    first, second = json.loads(out[0].splitlines()[-1])
    assert first == second
    return first


@pytest.mark.parametrize("writer", KINDS)
@pytest.mark.parametrize("reader", KINDS)
def test_a_run_goes_on_to_the_same_bits_whoever_wrote_its_checkpoint(found, writer, reader):
    assert found["adamw"][f"{writer} {reader}"] == 0.0
    # blocks of codes begin where a process's part does, so other parts are coded anew; 3 updates go 0.03 far
    same_parts = (writer == "parts") == (reader == "parts")
    furthest = found["adamw-8bit"][f"{writer} {reader}"]
    assert furthest == 0.0 if same_parts else furthest < 0.003
    assert found["adamw"][f"{writer} best"] == found["adamw-8bit"][f"{writer} best"] == 0.0


def test_each_process_writes_its_share(found):
    assert found["offsets"] == [True] * 4
    for optimizer in ("adamw", "adamw-8bit"):
        for writer in ("whole", "parts"):
            assert min(found[optimizer][f"{writer} bytes"]) > 0.4 * max(found[optimizer][f"{writer} bytes"])
    plain = [sum(found["adamw"][f"{writer} bytes"]) for writer in KINDS]
    assert max(plain) < 1.02 * min(plain), "no tensor is written twice"


def test_a_disk_that_is_full_in_one_process_fails_in_all_and_nothing_is_left(found):
    *sentences, left = found["full"]
    assert left == "step-000001"
    for sentence in sentences:
        assert sentence.startswith("NoSpace: the checkpoint of step 2 needs")
        assert "and the disk ran full while it was being written" in sentence


def test_a_file_that_changed_is_refused_in_all_processes(found):
    for sentence in found["changed"]:
        assert "optimizer-00001-00000.safetensors has changed since it was written" in sentence
