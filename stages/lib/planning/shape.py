"""Sizes of a model and of its passes, from its configuration alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from math import ceil
from typing import Any

from torch import nn

from padd_artifacts.errors import PaddError
from padd_stages.lib.compat.peft import running_on_meta
from padd_stages.lib.data.problems import first_line
from padd_stages.lib.models.loading import DtypeName, load_meta_model
from padd_stages.lib.models.moe_adapter import MoEAdapter
from padd_stages.lib.models.policy import Policy
from padd_stages.lib.models.trainable import Lora, Trained, choose_trained
from padd_stages.lib.planning.simulation import (
    Batch,
    cache_bytes,
    forward_bytes,
    plan_attention,
    update_bytes,
)
from padd_stages.lib.runtime.sharding import KEPT


@dataclass(frozen=True)
class Shape:
    """Sizes of a model: numbers of parameters; bytes in the type that it computes in; ``head`` is (V, D).

    ``factors`` are those of `Lora`, which the counts of the model leave out. ``kept_bytes`` are those of a model of
    which something is trained: that in fp32, and the routers. ``folded_bytes`` are of what `folded_experts` copies.
    """

    total: int
    active: int
    trained: int
    factors: int
    layers: int
    moe_layers: int
    experts: int
    computed_bytes: int
    kept_bytes: int
    folded_bytes: int
    layer_bytes: int
    root_bytes: int
    head: tuple[int, int]
    attention: int
    rows: tuple[tuple[int, int], ...]  # of each tensor: rows, and all its numbers

    @property
    def number_bytes(self) -> float:
        """Bytes of one number in the type that it computes in."""
        return self.computed_bytes / self.total

    def kept_share(self, shares: int) -> float:
        """Return the largest process's share of all numbers; each tensor's rows are divided, rounded up."""
        return sum(ceil(rows / shares) * (numbers // rows) for rows, numbers in self.rows) / self.total

    def forward_flops(self, context: float) -> float:
        """Return the FLOPs of one token's forward behind ``context`` others: two a weight, four a pair in attention."""
        return 2 * (self.active - self.head[0] * self.head[1]) + 4 * self.attention * context

    def counts(self) -> dict[str, int]:
        """Return total and active parameters."""
        return {"total": self.total - self.factors, "active": self.active - self.factors}


def _meta(name: str, dtype: DtypeName, trained: Trained = "nothing") -> tuple[Any, MoEAdapter | None]:
    """Build a model on the meta device with its adapter; `requires_grad` as it is trained."""
    model = load_meta_model(name, dtype)
    adapter = MoEAdapter.attach(model) if any(hasattr(m, "experts") for m in model.modules()) else None
    choose_trained(model, adapter, trained)
    return model, adapter


@cache
def shape_of(name: str, dtype: DtypeName, trained: Trained) -> Shape:
    """Read the sizes of a model from its configuration.

    Raises:
        PaddError: as `load_config`.
    """
    model, adapter = _meta(name, dtype, trained)
    parameters, layers = list(model.parameters()), Policy(model).layers
    total = sum(p.numel() for p in parameters)
    experts = 0 if adapter is None else sum(p.numel() for p in adapter.expert_parameters())
    idle = 0 if adapter is None else experts - experts * adapter.top_k // adapter.num_experts
    learnt = sum(p.numel() for p in parameters if p.requires_grad)
    folded = [] if adapter is None else adapter.expert_parameters()
    if not (isinstance(trained, Lora) and "experts" in trained.targets):
        folded = []
    config = model.config.get_text_config()
    heads = int(config.num_attention_heads)
    width = heads * int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    in_fp32 = set() if adapter is None else {id(p) for p in adapter.router_parameters()}
    wide = sum(
        p.numel() * KEPT.itemsize - p.nbytes for p in parameters if p.requires_grad or id(p) in in_fp32
    )
    computed, inside = _bytes(model), [_bytes(layer) for layer in layers]
    return Shape(
        total=total,
        active=total - idle,
        trained=learnt,
        factors=learnt if isinstance(trained, Lora) else 0,
        layers=len(layers),
        moe_layers=0 if adapter is None else adapter.num_layers,
        experts=0 if adapter is None else adapter.num_experts,
        computed_bytes=computed,
        kept_bytes=computed + wide,
        folded_bytes=sum(p.nbytes for p in folded),
        layer_bytes=max(inside, default=0),
        root_bytes=computed - sum(inside),
        head=tuple(model.get_output_embeddings().weight.shape),
        attention=len(layers) * width,
        rows=tuple((len(p), p.numel()) for p in parameters),
    )


def _bytes(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())


@contextmanager
def _simulated(name: str) -> Iterator[None]:
    """Report code of a model that reads the values of its tensors, of which there are none."""
    try:
        with running_on_meta():
            yield
    except (RuntimeError, NotImplementedError, AttributeError, TypeError, ValueError) as error:
        raise PaddError(
            f"the memory of {name} cannot be estimated, since its code does not run without weights "
            f"({first_line(error)}); try it with small batches and read gib/* in metrics.jsonl."
        ) from error


@cache
def forward_of(name: str, dtype: DtypeName, trained: Trained, batch: Batch) -> int:
    """Return `forward_bytes` of a model by name."""
    model, _ = _meta(name, dtype, trained)
    with _simulated(name):
        plan_attention(model, masked=batch.masked)
        return forward_bytes(model, batch)


@cache
def update_of(
    name: str,
    dtype: DtypeName,
    trained: Trained,
    batch: Batch,
    teacher_head: tuple[int, int] | None,
    checkpointed: bool,
    grouped: bool,
) -> int:
    """Return `update_bytes` of a model by name."""
    model, _ = _meta(name, dtype, trained)
    with _simulated(name):
        plan_attention(model, masked=batch.masked)
        return update_bytes(
            model, batch, teacher_head=teacher_head, checkpointed=checkpointed, grouped=grouped
        )


@cache
def cache_of(name: str, dtype: DtypeName, length: int) -> int:
    """Return `cache_bytes` of a model by name."""
    model, _ = _meta(name, dtype)
    with _simulated(name):
        plan_attention(model, masked=True)
        return cache_bytes(model, length)
