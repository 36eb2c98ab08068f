"""What a checkpoint of a sharded student costs: seconds and host memory to write it, seconds to resume from it.

    torchrun --standalone --nproc-per-node 2 benchmarks/checkpoints.py FOLDER [--optimizer adamw-8bit]

Random weights, gloo, on the CPUs of this machine; FOLDER is made, and removed at the end. Linux only.
"""

import argparse
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from padd_stages.lib.models.policy import Head, Policy
from padd_stages.lib.runtime.checkpoints import load_checkpoint, save_checkpoint
from padd_stages.lib.runtime.optimization import UpdateGuard, make_optimizer
from padd_stages.lib.runtime.processes import Processes
from padd_stages.lib.runtime.sharding import shard

CONFIG = Qwen3MoeConfig(  # 175 M parameters, 2.1 GB a checkpoint
    vocab_size=1024,
    hidden_size=768,
    moe_intermediate_size=384,
    num_hidden_layers=11,
    num_attention_heads=12,
    num_key_value_heads=4,
    head_dim=64,
    num_experts=16,
    num_experts_per_tok=2,
    tie_word_embeddings=False,
)
GB = 1e9


class Student:
    """A sharded student with its optimizer."""

    def __init__(self, optimizer: str, processes: Processes) -> None:
        with torch.device("cpu" if processes.is_main else "meta"):
            self.policy = Policy(Qwen3MoeForCausalLM(CONFIG))
        shard(self.policy, self.policy.layers, processes.device)
        self.named = dict(self.policy.model.named_parameters())
        self.optimizer = make_optimizer(
            self.named.values(),
            learning_rate=1e-5,
            weight_decay=0.0,
            name=optimizer,  # pyright: ignore[reportArgumentType]
        )
        self.processes, self.guard = processes, UpdateGuard(self.optimizer, 1.0, processes)

    def step(self) -> None:
        """Make one update on random tokens."""
        ids = torch.randint(CONFIG.vocab_size, (2, 64))
        mask = torch.ones_like(ids)

        def loss(hidden: torch.Tensor, head: Head) -> torch.Tensor:
            return nn.functional.linear(hidden, head.weight).square().mean()

        self.policy(ids, mask, mask.bool(), loss).backward()
        self.guard.step(1e-5)

    def save(self, folder: Path) -> None:
        """Write a checkpoint."""
        own = {"parameters": self.named, "optimizer": self.optimizer, "processes": self.processes}
        save_checkpoint(folder, 1, tensors={}, state={}, logs=[], keep=1, **own)

    def load(self, folder: Path) -> None:
        """Resume from it."""
        load_checkpoint(folder, parameters=self.named, optimizer=self.optimizer, processes=self.processes)


def memory(processes: Processes, kind: str) -> float:
    """Return GB of all processes: VmRSS, now, or VmHWM, the most since `forget`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    own = next(int(line.split()[1]) * 1024 for line in lines if line.startswith(kind))
    return sum(processes.gather(own)) / GB


def forget() -> None:
    """Begin VmHWM anew."""
    Path("/proc/self/clear_refs").write_text("5")


def timed(processes: Processes, action: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds of the slowest process, and the most memory of all in GB."""
    processes.barrier()
    forget()
    started = time.perf_counter()
    action()
    processes.barrier()
    return time.perf_counter() - started, memory(processes, "VmHWM")


def read(files: list[Path]) -> None:
    """Read files once."""
    buffer = bytearray(1 << 22)
    for path in files:
        with path.open("rb", buffering=0) as handle:
            while handle.readinto(buffer):
                pass


def drop(files: list[Path]) -> None:
    """Take files out of the page cache."""
    for path in files:
        with path.open("rb") as handle:
            os.fsync(handle.fileno())
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--optimizer", default="adamw")
    asked = parser.parse_args()
    dist.init_process_group("gloo")
    processes = Processes(torch.device("cpu"), shards=True)
    say: Callable[[str], object] = print if processes.is_main else lambda text: None
    libraries = memory(processes, "VmRSS")
    student = Student(asked.optimizer, processes)
    student.step()
    _, stepping = timed(processes, student.step)
    held = memory(processes, "VmRSS")
    seconds, writing = timed(processes, lambda: student.save(asked.folder))
    _, both = timed(processes, lambda: (student.step(), student.save(asked.folder)))
    files = sorted(asked.folder.rglob("*.safetensors"))
    size = sum(path.stat().st_size for path in files) / GB
    say(f"checkpoint {size:.2f} GB in {len(files)} files, written in {seconds:.1f} s")
    say(f"memory of all processes in GB: libraries {libraries:.2f}, held {held:.2f}, writing {writing:.2f}")
    say(f"a step {stepping:.2f}, a step with a checkpoint {both:.2f}")
    for cached in (False, True):
        taken = []
        for action in (
            lambda: read(files) if processes.is_main else None,
            lambda: student.load(asked.folder),
        ):
            if not cached and processes.is_main:
                drop(files)
            taken.append(timed(processes, action)[0])
        where = "page cache" if cached else "disk"
        say(f"from the {where}: read once in {taken[0]:.2f} s, resumed in {taken[1]:.2f} s")
    if processes.is_main:
        shutil.rmtree(asked.folder)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
