"""The processes of a distributed run: who this one is, and the few things that they do together.

Every process works on its share of a step's prompts and holds whole models, or its parts of them
(padd_stages.lib.runtime.sharding). All other collectives of a run are calls of `Processes`. Its methods do nothing in a
run of one process. All processes must call them in the same order.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import patch_environment
from torch import Tensor, nn

from padd_artifacts.errors import PaddError
from padd_stages.lib.compat.accelerate import FSDP, FSDP_RAM, LIBRARY
from padd_stages.lib.compat.probes import require
from padd_stages.lib.runtime.devices import pick_device
from padd_stages.lib.runtime.launcher import process_count

Value = TypeVar("Value")
# chosen: how long a process may wait for the slowest rollout or a checkpoint; NCCL's own 10 minutes are too few
PATIENCE = timedelta(hours=3)
STORE_PATIENCE = timedelta(seconds=5)


def start(device: str, mixed_precision: Literal["no", "bf16"]) -> Accelerator:
    """Find the other processes of the launcher, and this one's device.

    Args:
        device: auto, cpu, ...; on several GPUs each process takes its own.

    Raises:
        PaddError: an accelerate that launches in another way.
    """
    require(LIBRARY)
    # accelerate finds the processes; padd loads and shards the models itself, alike on CPUs and GPUs
    os.environ[FSDP_RAM] = "false"  # else transformers loads nothing in all processes but one
    with patch_environment(**{FSDP: "false"}):
        return Accelerator(
            mixed_precision=mixed_precision,
            cpu=pick_device(device) == "cpu",
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )


class Processes:
    """The processes of this run, one if it was started without a launcher."""

    def __init__(self, device: torch.device, *, shards: bool = False, in_step: bool = False) -> None:
        """What this process is.

        Args:
            device: where its tensors travel from.
            shards: each process keeps a part of what is trained.
            in_step: a forward of some model is a collective.
        """
        self.device = device
        self.rank, self.world = 0, 1
        if dist.is_available() and dist.is_initialized():
            self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self._shards, self._in_step = shards, shards or in_step

    @property
    def shards(self) -> bool:
        """Whether each process keeps a part of what is trained."""
        return self._shards and self.world > 1

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def share(self, values: Sequence[Value]) -> list[Value]:
        """This process's part of values that every process has: equal, in order; the length must divide."""
        each, rest = divmod(len(values), self.world)
        if rest:
            raise ValueError(f"{len(values)} values cannot be divided among {self.world} processes")
        return list(values[self.rank * each : (self.rank + 1) * each])

    def in_step(self, batches: list[list[int]]) -> list[list[int]]:
        """Batches of what this process is to run, cut further where its forwards must be as many as the others'.

        Every process has as many values in its batches, so none needs an empty one.
        """
        if not self._in_step or self.world == 1:
            return batches
        batches, most = list(batches), max(self.gather(len(batches)))
        while len(batches) < most:
            largest = max(range(len(batches)), key=lambda i: len(batches[i]))
            batch = batches[largest]
            batches[largest : largest + 1] = [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
        return batches

    def any(self, flag: bool) -> bool:
        """Whether it is true in some process."""
        return bool(self.sum(torch.tensor(float(flag))))

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over processes of tensors of one shape; on the tensor's device, a new one."""
        total = tensor.detach().to(self.device, copy=True)
        with _together():
            if self.world > 1:
                dist.all_reduce(total)
        return total.to(tensor.device)

    def gather(self, value: Value) -> list[Value]:
        """What every process gave, in the order of their ranks; any Python value, tensors on the host."""
        values: list[Any] = [value]
        with _together():
            if self.world > 1:
                values = [None] * self.world
                dist.all_gather_object(values, value)
        return values

    def add_up(self, numbers: Mapping[str, float]) -> Counter[str]:
        """The sum of each number over processes; one that is missing somewhere counts 0 there."""
        total: Counter[str] = Counter()
        for part in self.gather(dict(numbers)):
            total.update(part)
        return total

    def slowest(self, seconds: Mapping[str, float]) -> dict[str, float]:
        """The largest of each number, whose names are the same everywhere."""
        parts = self.gather(dict(seconds))
        return {name: max(part[name] for part in parts) for name in seconds}

    def wait(self) -> None:
        """Until all are here."""
        self.gather(None)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up each parameter's gradient over processes, in place.

        Summed, not averaged as DistributedDataParallel does: the losses are already divided by constants of the whole
        batch. Once, after the last micro-batch, so that processes may have different numbers of them. A parameter
        that has a gradient nowhere keeps none; one that has it somewhere gets it everywhere. Sharded models have
        summed theirs in the backward.
        """
        if self.world == 1 or self.shards:
            return
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        has = self.sum(torch.tensor([float(parameter.grad is not None) for parameter in trained]))
        with _together():
            for parameter, count in zip(trained, has.tolist()):
                if count:
                    if parameter.grad is None:
                        parameter.grad = torch.zeros_like(parameter)
                    dist.all_reduce(parameter.grad)


@contextmanager
def _together() -> Iterator[None]:
    """Around a collective: one that fails means that another process has ended."""
    try:
        yield
    except RuntimeError as error:
        raise _lost(error) from error


@contextmanager
def forwards_together() -> Iterator[None]:
    """Around forwards that may be collectives: of their errors only a connection's means that."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo/transport" in str(error):
            raise _lost(error) from error
        raise


def _lost(error: RuntimeError) -> PaddError:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
    return PaddError(
        f"another process of this run has ended or cannot be reached ({reason}), so the run stops; see what the "
        "launcher says of it, then --resume goes on from the last checkpoint."
    )


def first_to_fail() -> bool:
    """Whether this process, which has failed, is the first of its run: the others then end without a word.

    A counter in the launcher's store decides. Where that cannot be reached, better two sentences than none.
    """
    environ = os.environ
    if process_count() == 1:
        return True
    try:
        host, port = environ["MASTER_ADDR"], int(environ["MASTER_PORT"])
        store = dist.TCPStore(host, port, is_master=False, timeout=STORE_PATIENCE)  # pyright: ignore[reportPrivateImportUsage]
        return store.add(f"padd/failed/{environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", 1) == 1
    except (KeyError, RuntimeError):
        return True
