"""The memory and the time that one process of a stage needs, from the models' configurations alone."""

from dataclasses import dataclass, field
from typing import Any

from padd_stages.lib.models.loading import DtypeName
from padd_stages.lib.models.trainable import Trained
from padd_stages.lib.options.shared import OptimizerName
from padd_stages.lib.planning.gpus import GIB, Work
from padd_stages.lib.planning.shape import Shape, cache_of, forward_of, shape_of, update_of
from padd_stages.lib.planning.simulation import Batch
from padd_stages.lib.runtime.launcher import Launch
from padd_stages.lib.runtime.sharding import KEPT

# Bytes of both of AdamW's moments, of one weight; torchao's 8-bit ones have a scale in fp32 for each 256 numbers.
MOMENT_BYTES: dict[OptimizerName, float] = {"adamw": 8.0, "adamw-8bit": 2 * (1 + 4 / 256)}
CACHED = 256  # chosen: tokens whose cache is measured
LOGIT_COPIES = 4  # of a token's logits, while one is drawn from them: in fp32 softmax, sorted, summed up


@dataclass(frozen=True)
class Budget:
    """What one process of a stage needs; memory in GiB.

    Attributes:
        models: parameters of each model, ``total`` and ``active`` for one token.
        held: on its device throughout.
        phases: on its device beside that, in each phase.
        host: of all processes of a machine together.
        disk: beside the result, of the run.
        work: of one step, by part, if every response has the greatest length; ``steps`` of them.
    """

    models: dict[str, dict[str, int]]
    held: dict[str, float]
    phases: dict[str, dict[str, float]] = field(default_factory=dict)
    host: dict[str, float] = field(default_factory=dict)
    disk: dict[str, float] = field(default_factory=dict)
    work: dict[str, Work] = field(default_factory=dict)
    steps: int = 1

    @property
    def held_gib(self) -> float:
        """What is on the device throughout."""
        return sum(self.held.values())

    @property
    def peak_gib(self) -> float:
        """The largest phase with what is held throughout."""
        return self.held_gib + max((sum(parts.values()) for parts in self.phases.values()), default=0.0)

    def as_json(self) -> dict[str, Any]:
        """Return the memory and the models as JSON values, in GiB to two digits."""
        rounded = {
            "held": _rounded(self.held),
            "phases": {phase: _rounded(parts) for phase, parts in self.phases.items()},
            "host": _rounded(self.host),
            "disk": _rounded(self.disk),
        }
        return {"models": self.models, "peak": round(self.peak_gib, 2), **rounded}


def _rounded(parts: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 2) for name, value in parts.items()}


@dataclass(frozen=True)
class PlannedModel:
    """A model of a run: its configuration, the type it computes in, and how it is kept.

    Attributes:
        trained: what has gradients and moments; that, and routers, are kept in fp32.
        sharded: each process keeps 1/processes of every tensor's rows, rounded up (FSDP2).
        keep_root: what is outside the layers stays gathered, in every process.
    """

    name: str
    dtype: DtypeName
    launch: Launch
    trained: Trained = "nothing"
    sharded: bool = False
    keep_root: bool = False
    optimizer: OptimizerName = "adamw"

    @property
    def shape(self) -> Shape:
        """Its sizes."""
        return shape_of(self.name, self.dtype, self.trained)

    @property
    def shares(self) -> int:
        """The parts that each of its tensors is divided into."""
        return self.launch.processes if self.sharded else 1

    @property
    def moment_bytes(self) -> float:
        """Bytes of the moments of one weight."""
        return MOMENT_BYTES[self.optimizer]

    @property
    def is_mixed(self) -> bool:
        """Whether it is kept in another type than it computes in."""
        return self.trained != "nothing" and self.shape.computed_bytes != self.shape.kept_bytes

    def held(self, role: str) -> dict[str, float]:
        """Return the GiB held throughout: weights, moments, and what stays gathered."""
        shape = self.shape
        kept = shape.computed_bytes if self.trained == "nothing" else shape.kept_bytes
        parts = {f"{role}: weights": shape.kept_share(self.shares) * kept / GIB}
        if self.trained != "nothing":
            moments = self.moment_bytes * shape.trained
            parts[f"{role}: moments ({self.optimizer})"] = shape.kept_share(self.shares) * moments / GIB
        if self.sharded and self.keep_root:
            parts[f"{role}: embeddings and head, kept whole"] = shape.root_bytes / GIB
        return parts

    def gradients(self) -> float:
        """Return the GiB of the summed gradients, in fp32."""
        return self.shape.kept_share(self.shares) * self.shape.trained * KEPT.itemsize / GIB

    def checkpoint(self) -> float:
        """Return the GiB of one checkpoint: what is trained, in fp32, and its moments."""
        return self.shape.trained * (KEPT.itemsize + self.moment_bytes) / GIB

    def gathered(self, *, many_forwards: bool) -> float:
        """Return the GiB of the weights that forwards compute with, beside those that are held.

        Args:
            many_forwards: a token's each: what is not sharded keeps its copy in the type of the computation.
        """
        if not (self.sharded or self.is_mixed):
            return 0.0
        root = 0 if self.keep_root else self.shape.root_bytes
        on_their_way = 2 * self.shape.layer_bytes + root  # the next layer is gathered while one computes
        copy = self.shape.computed_bytes if self.is_mixed and not self.sharded and many_forwards else 0
        return (copy + on_their_way) / GIB

    def forward(self, batch: Batch) -> float:
        """Return the GiB of a forward without gradients."""
        return forward_of(self.name, self.dtype, self.trained, batch) / GIB

    def update(self, batch: Batch, *, teacher: "PlannedModel | None", checkpointed: bool) -> float:
        """Return the GiB of a micro-batch's forward and backward beside weights and summed gradients."""
        head = None if teacher is None else teacher.shape.head
        grouped = self.sharded or self.is_mixed
        return update_of(self.name, self.dtype, self.trained, batch, head, checkpointed, grouped) / GIB

    def cache(self, length: int) -> float:
        """Return the GiB of the key-value cache of one sequence of ``length`` tokens; sliding windows save nothing."""
        return length / CACHED * cache_of(self.name, self.dtype, CACHED) / GIB

    def sampling(self, rows: int, prompt: int, new_tokens: int) -> dict[str, float]:
        """Return the GiB of a batch of responses; one layer's cache is there twice while a token is appended."""
        layers, folded = self.shape.layers, self.shape.kept_share(self.shares) * self.shape.folded_bytes
        return {
            **({"experts without their factors": folded / GIB} if folded else {}),
            "weights that forwards compute with": self.gathered(many_forwards=True),
            "key-value cache": rows * self.cache(prompt + new_tokens) * (1 + 1 / layers),
            "logits": LOGIT_COPIES * rows * self.shape.head[0] * 4 / GIB,
        }

    def decoding(self, rows: int, batches: int, prompt: int, new_tokens: int) -> Work:
        """Return the work of responses of ``new_tokens`` each: every token reads weights and cache."""
        steps, shape = batches * new_tokens, self.shape
        cache = (
            rows * self.cache(prompt + new_tokens) * GIB * (prompt + new_tokens / 2) / (prompt + new_tokens)
        )
        flops = rows * shape.forward_flops(prompt + new_tokens / 2)
        return Work(steps * flops, steps * (shape.computed_bytes + cache), steps * self.received())

    def received(self) -> float:
        """Return the bytes that a process receives in one forward."""
        return (1 - 1 / self.shares) * self.shape.computed_bytes if self.sharded else 0.0

    def passes(self, tokens: float, length: int, forwards: int, *, products: float = 1.0) -> Work:
        """Return the work of ``tokens`` in sequences of ``length`` in ``forwards`` passes; a backward is 2 products."""
        flops = products * tokens * self.shape.forward_flops(length / 2)
        gathers = max(products - 1, 1)  # anew in the backward, and gradients in fp32, twice as wide
        return Work(
            flops, forwards * self.shape.computed_bytes * products, forwards * gathers * self.received()
        )


def batch_of(tokens: int, length: int, rows: int | None = None, *, masked: bool = True) -> Batch:
    """Return the batch of a token budget: as many rows of ``length`` as fit, one at least, ``rows`` at most."""
    fitting = max(tokens // length, 1)
    return Batch(fitting if rows is None else max(min(fitting, rows), 1), length, masked)
