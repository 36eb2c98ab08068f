"""`padd cluster` on a whole teacher of Qwen2.5-Math-7B's shape: time, peak memory, and a run that is killed half-way.

    python benchmarks/clustering_scale.py [--quick] [--json] [--work FOLDER]

Makes a sharded bf16 checkpoint of 28 layers of 18,944 x 3,584 (random low rank plus noise; 11 GB in FOLDER, removed
afterwards), runs `padd cluster --clusters 128` on it, kills it when half of the layers are done, resumes it, and
compares the result with a run that nobody killed. ``--quick`` takes 4 layers of 4,736 x 896 into 32.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import save_file
from transformers import Qwen2Config

from padd_artifacts.artifact import open_artifact
from padd_artifacts.work import find

RANK = 64
LAYERS_PER_SHARD = 4
PADD = Path(sys.executable).with_name("padd")


@dataclass(frozen=True)
class Shape:
    """Decoder layers, d_ff, d_T and the clusters of each layer."""

    layers: int
    width: int
    hidden: int
    clusters: int


@dataclass(frozen=True)
class Finished:
    """A process that ended: its exit code (negative for a signal), wall seconds, peak memory in GB."""

    code: int
    seconds: float
    gigabytes: float


def make_teacher(folder: Path, shape: Shape) -> None:
    """Only what clustering reads is there: a configuration and the FFN's matrices."""
    Qwen2Config(
        hidden_size=shape.hidden,
        intermediate_size=shape.width,
        num_hidden_layers=shape.layers,
        architectures=["Qwen2ForCausalLM"],
    ).save_pretrained(folder)
    generator = torch.Generator().manual_seed(0)
    index, shards = {}, range(0, shape.layers, LAYERS_PER_SHARD)
    for number, first in enumerate(shards, start=1):
        tensors = {}
        for layer in range(first, min(first + LAYERS_PER_SHARD, shape.layers)):
            left = torch.randn(shape.width, RANK, generator=generator)
            right = torch.randn(RANK, shape.hidden, generator=generator) / RANK**0.5
            noise = torch.randn(shape.width, shape.hidden, generator=generator)
            name = f"model.layers.{layer}.mlp"
            tensors[f"{name}.gate_proj.weight"] = (0.02 * (left @ right + noise)).to(torch.bfloat16)
            tensors[f"{name}.up_proj.weight"] = torch.zeros(shape.width, shape.hidden, dtype=torch.bfloat16)
            tensors[f"{name}.down_proj.weight"] = torch.zeros(shape.hidden, shape.width, dtype=torch.bfloat16)
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(tensors, folder / file)
        index |= dict.fromkeys(tensors, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def cluster(teacher: Path, out: Path, shape: Shape, *extra: str, kill_after: int | None = None) -> Finished:
    """Run the command; kill it when ``kill_after`` layers are on disk."""
    started = time.monotonic()
    what = [
        "--teacher",
        str(teacher),
        "--clusters",
        str(shape.clusters),
        "--tolerance",
        "0",
        "--out",
        str(out),
    ]
    process = subprocess.Popen([PADD, "cluster", *what, "--quiet", *extra], stdout=subprocess.DEVNULL)
    if kill_after is not None:
        while not ended(process) and layers_done(out) < kill_after:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return Finished(process.returncode, time.monotonic() - started, usage.ru_maxrss / 2**20)


def layers_done(out: Path) -> int:
    """Layers on disk of a run that has not ended."""
    return sum(len(list((folder.artifact / "layers").glob("*.json"))) for folder in find(out.absolute()))


def ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has ended; it stays there for wait4, which tells its memory."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def measure(work: Path, shape: Shape, console: Console) -> dict[str, Any]:
    """The three runs."""
    teacher = work / "teacher"
    teacher.mkdir()
    console.print(f"making {shape.layers} layers of {shape.width:,} x {shape.hidden:,}")
    make_teacher(teacher, shape)
    whole = cluster(teacher, work / "whole", shape)
    killed = cluster(teacher, work / "cut", shape, kill_after=shape.layers // 2)
    left = layers_done(work / "cut")
    resumed = cluster(teacher, work / "cut", shape, "--resume")
    if whole.code or resumed.code or killed.code != -signal.SIGKILL:
        raise SystemExit(f"exit codes: whole {whole.code}, killed {killed.code}, resumed {resumed.code}")
    first, second = open_artifact(work / "whole"), open_artifact(work / "cut")
    timing = json.loads(first.file("timing.json").read_text())
    return {
        "shape": f"{shape.layers} layers of {shape.width:,} x {shape.hidden:,} into {shape.clusters}",
        "seconds": round(whole.seconds, 1),
        "seconds_clustering": round(sum(layer["clustering"] for layer in timing.values()), 1),
        "seconds_quality": round(sum(layer["quality"] for layer in timing.values()), 1),
        "peak_gigabytes": round(whole.gigabytes, 3),
        "layers_at_kill": left,
        "seconds_resumed": round(resumed.seconds, 1),
        "same_digest": first.manifest.digest == second.manifest.digest,
        "summary": first.manifest.summary,
    }


def main() -> None:
    """Print what was measured; with ``--json`` as one object on the last line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="4 small layers")
    parser.add_argument("--json", action="store_true", help="one object on the last line of stdout")
    parser.add_argument(
        "--work", type=Path, help="where the checkpoint goes (default: the system's temporary folder)"
    )
    arguments = parser.parse_args()
    shape = Shape(4, 4_736, 896, 32) if arguments.quick else Shape(28, 18_944, 3_584, 128)
    console = Console(file=sys.stderr)
    if arguments.work:
        Path(arguments.work).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        found = measure(Path(folder), shape, console)
    for name, value in found.items():
        console.print(f"{name}: {value}")
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
