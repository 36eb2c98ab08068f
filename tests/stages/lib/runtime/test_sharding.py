"""FSDP2 on two processes (gloo, CPU): of every family the same loss, gradients and state as of the whole model."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from padd_stages.toy.tokenizer import build_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

PROGRAM = Path(__file__).with_name("sharded_families.py")
HANGS = 300.0  # seconds after which the processes are killed
TIED = "qwen2_tied"
WITH_LORA = (
    "qwen3_moe",
    "deepseek_v3",
    "gpt_oss",
    "granitemoe",
)  # one of each layout of experts and of attention


def start(rank: int, folder: Path, port: int) -> subprocess.Popen[str]:
    environ = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), str(folder)],
        env=os.environ | environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def found(tmp_path_factory, make_tiny, families):
    """What the program printed: of each process, by family."""
    folder = tmp_path_factory.mktemp("families")
    models = {name: make_tiny(name) for name in (*families, "qwen2")}
    models |= {f"{name}_lora": make_tiny(name) for name in WITH_LORA}
    models |= {f"{name}_bf16": make_tiny(name).bfloat16() for name in ("qwen3_moe", "deepseek_v3")}
    models[TIED] = make_tiny("qwen2", tie_word_embeddings=True)
    for name, model in models.items():
        model.save_pretrained(folder / name)
        build_tokenizer(1).save_pretrained(folder / name)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [start(rank, folder, port) for rank in range(2)]
    try:
        out = [process.communicate(timeout=HANGS)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0]
    by_process = json.loads(out[0].splitlines()[-1])
    assert [set(part) for part in by_process] == [set(models)] * 2
    return by_process


def test_every_family_computes_sharded_what_it_computes_whole(found):
    for by_family in found:
        for name, numbers in by_family.items():
            assert numbers["loss"] < 1e-5, name
            assert numbers["gradient"] < 1e-5, (
                name
            )  # of the sum over processes, relative to its largest entry
            assert numbers["gradient_size"] > 1e-3, name
            assert numbers["layers_seen"] == (0 if name.startswith("qwen2_t") or name == "qwen2" else 3), name


def test_every_process_keeps_half_and_the_state_is_gathered_whole(found):
    for by_family in found:
        for name, numbers in by_family.items():
            assert numbers["folded"] < 1e-4, name  # of a loss
            assert numbers["share"] == pytest.approx(0.5, abs=0.01), name
            assert numbers["same_state"], name
            assert numbers["same_types"], name
