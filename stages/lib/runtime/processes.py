"""The processes of a distributed run and their collectives.

Every process works on its share of a step's prompts and holds whole models, or its parts of them
(padd_stages.lib.runtime.sharding). All other collectives of a run are calls of `Processes`. Its methods do nothing in a
run of one process. All processes must call them in the same order.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from padd_artifacts.errors import PaddError, UsageError
from padd_stages.lib.compat.accelerate import FSDP_RAM, LIBRARY
from padd_stages.lib.compat.probes import require
from padd_stages.lib.runtime.devices import pick_device
from padd_stages.lib.runtime.launcher import process_count

Value = TypeVar("Value")
# chosen: how long a process may wait for the slowest rollout or a checkpoint; NCCL's own 10 minutes are too few
COLLECTIVE_TIMEOUT = timedelta(hours=3)
STORE_TIMEOUT = timedelta(seconds=5)


@contextmanager
def start_processes(
    device: str, *, shards: bool = False, mixed: bool = False, lockstep: bool = False
) -> Iterator["Processes"]:
    """Connect to the other processes of the launcher, and choose this one's device.

    Args:
        device: auto, cpu, ...; on several GPUs each process takes its own.
        shards, mixed, lockstep: as for `Processes`.

    Raises:
        PaddError: an accelerate whose launcher sets other variables.
    """
    require(LIBRARY)
    os.environ[FSDP_RAM] = "false"  # else transformers loads nothing in all processes but one
    chosen = torch.device(pick_device(device))
    if process_count() > 1:
        # accelerate finds the processes; padd loads and shards the models itself, alike on CPUs and GPUs
        state = PartialState(cpu=chosen.type == "cpu", timeout=COLLECTIVE_TIMEOUT)
        chosen = torch.device(state.device or chosen)
    if chosen.type == "cuda" and chosen.index is not None:
        torch.cuda.set_device(chosen)  # FSDP2 puts its parts on the current one
    alone = mixed and not dist.is_initialized()  # FSDP2 wants a group of processes, of one too
    if alone:
        store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]
        dist.init_process_group(store=store, rank=0, world_size=1)
    try:
        yield Processes(chosen, shards=shards, mixed=mixed, lockstep=lockstep)
    finally:
        if alone:
            dist.destroy_process_group()


def check_divides(flag: str, count: int, mini_batches: int = 1) -> None:
    """Refuse a number of prompts or rows that cannot be divided among the processes, of each among its mini-batches.

    Raises:
        UsageError: it cannot.
    """
    if count % (process_count() * mini_batches):
        if mini_batches > 1:
            raise UsageError(
                f"{flag} {count} cannot be divided among {process_count()} x {mini_batches} processes and "
                "--mini-batches, each of which takes as many; change one of the three."
            )
        raise UsageError(
            f"{flag} {count} cannot be divided among {process_count()} processes, each of which takes as many; change "
            "one of the two."
        )


class Processes:
    """The processes of this run; one where it was started without a launcher."""

    def __init__(
        self, device: torch.device, *, shards: bool = False, mixed: bool = False, lockstep: bool = False
    ) -> None:
        """Read rank and number of processes.

        Args:
            device: of the collectives' tensors.
            shards: each process keeps a part of what is trained.
            mixed: what is trained is kept in another type than it is computed in.
            lockstep: a forward of some model is a collective.
        """
        self.device = device
        self.rank, self.world = 0, 1
        if dist.is_available() and dist.is_initialized():
            self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self._shards, self._mixed, self._lockstep = shards, mixed, shards or lockstep

    @property
    def shards(self) -> bool:
        """Whether each process keeps a part of what is trained."""
        return self._shards and self.world > 1

    @property
    def fsdp(self) -> bool:
        """Whether FSDP2 holds what is trained: its parts, or copies to compute with in another type."""
        return self.shards or self._mixed

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0

    def share(self, values: Sequence[Value]) -> list[Value]:
        """Return this process's part of values that every process has: equal, in order; the length must divide."""
        each, rest = divmod(len(values), self.world)
        if rest:
            raise ValueError(f"{len(values)} values cannot be divided among {self.world} processes")
        return list(values[self.rank * each : (self.rank + 1) * each])

    def deal(self, values: Sequence[Value]) -> list[Value]:
        """Return this process's part of values that every process has, dealt out in turn; any number of them."""
        return list(values[self.rank :: self.world])

    def collect(self, part: Sequence[Value]) -> list[Value]:
        """Return what all processes made of the values that were dealt out, in the order before."""
        parts = self.gather(list(part))
        return [parts[i % self.world][i // self.world] for i in range(sum(map(len, parts)))]

    def rounds(self, batches: Sequence[Value]) -> Iterator[tuple[Value | None, bool]]:
        """Yield this process's part of batches that every process has, each with True; equally often in all.

        A process that has one fewer than the others ends with False: with a batch of another's where forwards are
        collectives, since a forward is needed though its results are not, else with None.
        """
        own = self.deal(batches)
        for batch in own:
            yield batch, True
        if len(own) * self.world < len(batches):
            yield (batches[0] if self._lockstep else None), False

    def equal_batches(self, batches: list[list[int]]) -> list[list[int]]:
        """Split this process's batches further where its forwards must be as many as those of the others.

        Every process has equally many values in its batches, so none needs an empty one.
        """
        if not self._lockstep or self.world == 1:
            return batches
        batches, most = list(batches), max(self.gather(len(batches)))
        while len(batches) < most:
            largest = max(range(len(batches)), key=lambda i: len(batches[i]))
            batch = batches[largest]
            batches[largest : largest + 1] = [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
        return batches

    def any(self, flag: bool) -> bool:
        """Return whether the flag is true in some process."""
        return bool(self.sum(torch.tensor(float(flag))))

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum tensors of one shape over processes; a new tensor on the device of the given one."""
        total = tensor.detach().to(self.device, copy=True)
        with _collective():
            if self.world > 1:
                dist.all_reduce(total)
        return total.to(tensor.device)

    def gather(self, value: Value) -> list[Value]:
        """Return the values of all processes, in the order of their ranks; any Python value, tensors on the host."""
        values: list[Any] = [value]
        with _collective():
            if self.world > 1:
                values = [None] * self.world
                dist.all_gather_object(values, value)
        return values

    def sum_each(self, numbers: Mapping[str, float]) -> Counter[str]:
        """Sum each number over processes; one that is missing in a process counts 0 there."""
        total: Counter[str] = Counter()
        for part in self.gather(dict(numbers)):
            total.update(part)
        return total

    def max_each(self, seconds: Mapping[str, float]) -> dict[str, float]:
        """Return the largest of each number over processes; their names are the same in all."""
        parts = self.gather(dict(seconds))
        return {name: max(part[name] for part in parts) for name in seconds}

    def barrier(self) -> None:
        """Wait for all processes."""
        self.gather(None)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up each parameter's gradient over processes, in place.

        Summed, not averaged as DistributedDataParallel does: the losses are already divided by constants of the whole
        batch. Once, after the last micro-batch, so that processes may have different numbers of them. A parameter
        without a gradient in any process keeps none; one with a gradient in some gets it in all. Sharded models have
        summed theirs in the backward.
        """
        if self.world == 1 or self.shards:
            return
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        has = self.sum(torch.tensor([float(parameter.grad is not None) for parameter in trained]))
        with _collective():
            for parameter, count in zip(trained, has.tolist()):
                if count:
                    if parameter.grad is None:
                        parameter.grad = torch.zeros_like(parameter)
                    grad = parameter.grad
                    dist.all_reduce(grad.to_local() if isinstance(grad, DTensor) else grad)


@contextmanager
def _collective() -> Iterator[None]:
    """Report an error of a collective as the end of another process."""
    try:
        yield
    except RuntimeError as error:
        raise _lost(error) from error


@contextmanager
def collective_forwards() -> Iterator[None]:
    """Report a connection's error in forwards that may be collectives as the end of another process."""
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
    """Return whether this process, which has failed, is the first of its run: the others then end silently.

    A counter in the launcher's store decides. Where that cannot be reached, two error messages are better than none.
    """
    environ = os.environ
    if process_count() == 1:
        return True
    try:
        host, port = environ["MASTER_ADDR"], int(environ["MASTER_PORT"])
        store = dist.TCPStore(host, port, is_master=False, timeout=STORE_TIMEOUT)  # pyright: ignore[reportPrivateImportUsage]
        return store.add(f"padd/failed/{environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", 1) == 1
    except (KeyError, RuntimeError):
        return True
