"""A program of two processes: checkpoints of weights that each has whole, or its part of, read by two or by one.

Called by tests/stages/lib/runtime/test_divided_checkpoints.py with a folder; rank 0 prints one JSON object.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from padd_artifacts.errors import PaddError
from padd_stages.lib.runtime import parts
from padd_stages.lib.runtime.checkpoints import load_best, load_checkpoint, save_checkpoint
from padd_stages.lib.runtime.optimization import make_optimizer
from padd_stages.lib.runtime.processes import Processes
from padd_stages.lib.runtime.sharding import gather, local, start_of

ALONE = Processes(torch.device("cpu"))  # of before the processes are connected
# 3 and 2 experts; parts that are no multiple of a block; nothing in process 1; what never has a gradient
SHAPES = {"experts": (5, 64, 64), "odd": (131, 67), "row": (1, 300), "unused": (4, 4)}
WHOLE, PARTS = "whole", "parts"
parts.PIECE = 40_000  # several files of each process


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for name, shape in SHAPES.items():
            self.register_parameter(name, nn.Parameter(torch.randn(*shape, generator=generator)))


class Run:
    """A model with its optimizer, in one process or in two."""

    def __init__(self, optimizer: str, processes: Processes, kind: str) -> None:
        self.processes, model = processes, Model()
        if kind == PARTS:
            fully_shard(model)
        self.named = dict(model.named_parameters())
        self.optimizer = make_optimizer(
            self.named.values(),
            learning_rate=1e-2,
            weight_decay=0.0,
            name=optimizer,  # type: ignore[arg-type]
        )

    def update(self, steps: range) -> "Run":
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            for name, parameter in self.named.items():
                grad = torch.randn(*SHAPES[name], generator=generator)
                if isinstance(parameter, DTensor):
                    mesh, placements = parameter.device_mesh, parameter.placements
                    grad = distribute_tensor(grad, mesh, placements, src_data_rank=None)
                parameter.grad = None if name == "unused" else grad
            self.optimizer.step()
        return self

    def weights(self) -> dict[str, Tensor]:
        return {name: gather(parameter.detach()).clone() for name, parameter in self.named.items()}

    def save(self, folder: Path, step: int = 2) -> "Run":
        save_checkpoint(
            folder,
            step,
            parameters=self.named,
            tensors={"bias": torch.arange(3.0)},
            optimizer=self.optimizer,
            state={},
            logs=[],
            keep=9,
            score=float(-step),
            processes=self.processes,
        )
        return self

    def load(self, folder: Path) -> "Run":
        _, _, tensors = load_checkpoint(
            folder, parameters=self.named, optimizer=self.optimizer, processes=self.processes
        )
        assert tensors["bias"].tolist() == [0, 1, 2]
        return self


def furthest(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    return max(float((left[name] - right[name]).abs().max()) for name in left)


def resumed(folder: Path, optimizer: str, two: Processes) -> dict[str, Any]:
    """How far runs that resume are from the one that wrote the checkpoint and went on; by who wrote and who resumed."""
    found: dict[str, Any] = {}
    for writer, writes in ((WHOLE, two), (PARTS, two), ("one", ALONE)):
        place = folder / optimizer / writer
        run = Run(optimizer, writes, writer).update(range(2))
        if writes is two or dist.get_rank() == 0:
            run.save(place)
        dist.barrier()
        through = run.update(range(2, 5)).weights()
        for reader, reads in ((WHOLE, two), (PARTS, two), ("one", ALONE)):
            again = Run(optimizer, reads, reader).load(place).update(range(2, 5)).weights()
            found[f"{writer} {reader}"] = furthest(through, again)
        best = Run(optimizer, two, PARTS)
        load_best(place, parameters=best.named, processes=two)
        expected = Run(optimizer, ALONE, "one").update(range(2)).weights()
        found[f"{writer} best"] = furthest(best.weights(), expected)
        sizes = {path.name: path.stat().st_size for path in place.rglob("*.safetensors")}
        found[f"{writer} bytes"] = [
            sum(size for name, size in sizes.items() if name.split("-")[1] == f"0000{rank}")
            for rank in (0, 1)
        ]
    return found


def refused(action: Callable[[], Any]) -> list[str]:
    """The sentences that an action fails with, of each process."""
    try:
        action()
        text = ""
    except PaddError as error:
        text = f"{type(error).__name__}: {error}"
    sentences: list[Any] = [None] * 2
    dist.all_gather_object(sentences, text)
    return sentences


def full_disk(folder: Path, two: Processes) -> list[str]:
    """The second process's disk runs full while it writes the second checkpoint."""
    save = parts.save_file

    def full(tensors: Any, path: Path, metadata: dict[str, str]) -> None:
        save(tensors, path, metadata)
        if dist.get_rank() == 1 and path.name.startswith("optimizer"):
            raise SafetensorError("I/O error: No space left on device (os error 28)")

    run = Run("adamw", two, PARTS).update(range(1)).save(folder, 1)
    parts.save_file = full
    sentences = refused(lambda: run.save(folder, 2))
    parts.save_file = save
    return [*sentences, *sorted(path.name for path in (folder / "checkpoints").iterdir())]


def changed_file(folder: Path, two: Processes) -> list[str]:
    Run("adamw", two, PARTS).update(range(1)).save(folder, 1)
    path = sorted(folder.rglob("optimizer-00001-*"))[0]
    if dist.get_rank() == 0:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    dist.barrier()
    return refused(lambda: Run("adamw", two, PARTS).load(folder))


def main() -> None:
    folder = Path(sys.argv[1])
    dist.init_process_group("gloo")
    two = Processes(torch.device("cpu"))
    offsets = [
        torch.equal(local(p).flatten(), Model().state_dict()[n].flatten()[start_of(p) :][: local(p).numel()])
        for n, p in Run("adamw", two, PARTS).named.items()
    ]
    results = {name: resumed(folder, name, two) for name in ("adamw", "adamw-8bit")}
    results |= {
        "offsets": offsets,
        "full": full_disk(folder / "full", two),
        "changed": changed_file(folder / "changed", two),
    }
    every: list[Any] = [None] * 2
    dist.all_gather_object(every, results)
    if dist.get_rank() == 0:
        print(json.dumps(every))
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # torch's connection threads can abort an interpreter that takes itself apart


if __name__ == "__main__":
    main()
