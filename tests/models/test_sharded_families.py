"""FSDP2 on two processes (gloo, CPU): of every family the same loss, gradients and state as of the whole model."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from padd_stages.toy.tokenizer import build_tokenizer

HANGS = 200.0  # seconds after which the processes are killed


@pytest.fixture(scope="module")
def found(tmp_path_factory, all_families):
    folder = tmp_path_factory.mktemp("families")
    for name, model in all_families.items():
        model.save_pretrained(folder / name)
        build_tokenizer(1).save_pretrained(folder / name)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environ = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("sharded_families.py")), str(folder)],
            env=environ | {"RANK": str(rank), "OMP_NUM_THREADS": "1"},
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
    return json.loads(out[0].splitlines()[-1])
