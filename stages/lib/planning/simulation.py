"""Peak memory of a model's passes, by running its own code on the meta device and counting the tensors that live."""

import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from padd_stages.lib.compat.torch import GROUPED_MM, TorchDispatchMode
from padd_stages.lib.compat.transformers import find_cache
from padd_stages.lib.models.policy import Head, Policy, run_body
from padd_stages.lib.models.trained import checkpoint_activations, use_checkpoints
from padd_stages.lib.objectives.chunked import chunked_kl, chunked_logprobs

LAYERS_RUN = 4  # chosen: the first of some families are dense, the others alike
FUSED, MASKED = "padd_fused_attention", "padd_masked_attention"


class MemoryTracker(TorchDispatchMode):
    """The bytes of the tensors that operations inside make, while they live; what there was before is not counted.

    Attributes:
        live, peak: bytes; storages that views share count once.
    """

    def __init__(self, before: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen = weakref.WeakSet(tensor.untyped_storage() for tensor in before)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        grouped = func is GROUPED_MM and args[0].is_meta
        result = _grouped_product(*args, **kwargs) if grouped else func(*args, **kwargs)
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()) not in self._seen:
                self._seen.add(storage)
                self.live += storage.nbytes()
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._free, storage.nbytes())
        return result

    def restart(self) -> int:
        """Return the peak, and begin a new one."""
        peak, self.peak = self.peak, self.live
        return peak

    def _free(self, size: int) -> None:
        self.live -= size


def _grouped_product(a: Tensor, b: Tensor, offsets: Tensor, *_: Any, **__: Any) -> Tensor:
    """Stand for grouped_mm, whose meta kernel takes bf16 alone: experts are the third dimension, or end at offsets."""
    shape = (*a.shape[-2:-1], *b.shape[-1:])
    return a.new_empty(shape if 3 in (a.dim(), b.dim()) else (len(offsets), *shape))


class _FusedAttention(torch.autograd.Function):
    """What a fused kernel keeps: inputs, output and the logsumexp of each row; never the scores."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:  # type: ignore[override]
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        logsumexp = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, mask, out, logsumexp)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        query, key, value, *_ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None


def _fused(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **_: Any
) -> tuple[Tensor, None]:
    """Stand for flash attention in transformers: (B, H, T, E) and keys of fewer heads in, (B, T, H, E) out."""
    return _FusedAttention.apply(query, key, value, None).transpose(1, 2).contiguous(), None


def _masked(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **_: Any
) -> tuple[Tensor, None]:
    """Stand for scaled_dot_product_attention with a mask: keys repeated for each head, the mask in the query's type."""
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, dim=1) if groups > 1 else x for x in (key, value))
    mask = None if attention_mask is None else attention_mask.to(query.dtype)
    return _FusedAttention.apply(query, key, value, mask).transpose(1, 2).contiguous(), None


def plan_attention(model: Any, *, masked: bool) -> None:
    """Let the model compute attention by what stands for a fused kernel.

    The meta device would take the formula, with all scores. ``masked``: with a mask of all pairs of positions, as
    ``sdpa`` has for padded batches; flash attention has none.
    """
    AttentionInterface.register(FUSED, _fused)
    AttentionInterface.register(MASKED, _masked)
    model.set_attn_implementation(MASKED if masked else FUSED)


@dataclass(frozen=True)
class Batch:
    """A padded batch: ``rows`` x ``length`` tokens; ``masked`` as for `plan_attention`."""

    rows: int
    length: int
    masked: bool = True

    @property
    def tokens(self) -> int:
        """Number of padded tokens."""
        return self.rows * self.length

    def body(self, policy: Policy) -> Tensor:
        """Run the body of a model on the meta device; (tokens, D)."""
        ids = torch.zeros(self.rows, self.length, dtype=torch.long, device="meta")
        shape = (self.rows, 1, self.length, self.length)
        mask = torch.ones(shape, dtype=torch.bool, device="meta")  # 4D: transformers reads no values of it
        return run_body(policy.model, ids, mask).flatten(0, 1)


@torch.no_grad()
def forward_bytes(model: Any, batch: Batch) -> int:
    """Count the peak beside the weights of a forward without gradients up to log-probabilities.

    Args:
        model: on the meta device, as `plan_attention` left it; all but its first layers are dropped.
    """
    policy = Policy(model)
    _first_layers(policy)
    with MemoryTracker(policy.parameters()) as tracker:
        _logprobs(policy, batch.body(policy))
    return tracker.peak


def update_bytes(
    model: Any, batch: Batch, *, teacher_head: tuple[int, int] | None, checkpointed: bool, grouped: bool
) -> int:
    """Count the peak beside weights and summed gradients of one micro-batch: activations, gradients, logits in chunks.

    A few layers run; every further one adds what it keeps for the backward, while its layer is computed.

    Args:
        model: on the meta device, as `plan_attention` left it, `requires_grad` set; all but its first layers are
            dropped.
        teacher_head: words and width of the teacher that is distilled from.
        checkpointed: layers are computed anew in the backward.
        grouped: FSDP2 holds a layer's gradients until its last, and a copy in fp32 that it sums.
    """
    policy = Policy(model)
    dropped = _first_layers(policy)
    if checkpointed:
        checkpoint_activations(model)
        use_checkpoints(model)
    tracker, kept, inside = MemoryTracker(policy.parameters()), list[int](), list[int]()
    for layer in policy.layers:
        layer.register_forward_pre_hook(lambda *_: kept.append(tracker.live))
    for unit in (*policy.layers, None):
        _release_gradients(policy, unit, grouped=grouped)
    policy.layers[0].register_full_backward_hook(lambda *_: inside.append(tracker.restart()))
    with tracker:
        hidden = batch.body(policy)
        loss = _logprobs(policy, hidden).sum()
        if teacher_head is not None:
            loss = loss + _distillation(policy.head, hidden, teacher_head)
        before = kept[: len(policy.layers)]  # checkpointed layers run a second time
        loss.backward()
    further = dropped * (before[-1] - before[-2]) if len(before) > 1 else 0
    return max(max(inside, default=tracker.peak) + further, tracker.peak)


@torch.no_grad()
def cache_bytes(model: Any, length: int) -> int:
    """Count the key-value cache of one sequence of ``length`` tokens.

    Args:
        model: on the meta device, as `plan_attention` left it.
    """
    ids = torch.zeros(1, length, dtype=torch.long, device="meta")
    mask = torch.ones(1, 1, length, length, dtype=torch.bool, device="meta")
    with MemoryTracker():
        found = find_cache(model(input_ids=ids, attention_mask=mask, use_cache=True))
    if found is None:
        return 0
    kept = (value for layer in found[1].layers for value in vars(layer).values())
    return sum(value.nbytes for value in kept if isinstance(value, Tensor))


def _first_layers(policy: Policy) -> int:
    """Drop all but the first layers of a model, since the others are like them; return how many were dropped."""
    kept, all_layers = set(policy.layers[:LAYERS_RUN]), list(policy.layers)
    for module in policy.modules():
        if isinstance(module, nn.ModuleList) and list(module) == all_layers:
            del module[LAYERS_RUN:]
    return len(all_layers) - len(kept)


def _logprobs(policy: Policy, hidden: Tensor) -> Tensor:
    head = policy.head
    targets = torch.zeros(len(hidden), dtype=torch.long, device="meta")
    return chunked_logprobs(head.scaled(hidden), head.weight, targets, 1.0, head.bias, softcap=head.softcap)[
        0
    ]


def _distillation(head: Head, hidden: Tensor, teacher_head: tuple[int, int]) -> Tensor:
    words, width = teacher_head
    shared = torch.arange(min(words, len(head.weight)))
    ones = torch.ones(len(hidden), device="meta")
    return chunked_kl(
        head.scaled(hidden),
        head.weight,
        torch.empty(len(hidden), width, dtype=hidden.dtype, device="meta"),
        torch.empty(words, width, dtype=hidden.dtype, device="meta"),
        weight=ones,
        tau_teacher=ones,
        tau_student=ones,
        direction="reverse",
        student_index=shared,
        teacher_index=shared,
        student_softcap=head.softcap,
    )[0]


def _release_gradients(policy: Policy, unit: nn.Module | None, *, grouped: bool) -> None:
    """Drop the gradients of a layer (None: of what is outside the layers) as soon as FSDP2 or autograd has summed them.

    Their sums are counted elsewhere, as a part of every process.
    """
    inside = {id(p) for layer in policy.layers for p in layer.parameters()}
    owned = policy.parameters() if unit is None else unit.parameters()
    parameters = [p for p in owned if p.requires_grad and (unit is not None or id(p) not in inside)]
    waiting = len(parameters)

    def release(parameter: Tensor) -> None:
        nonlocal waiting
        waiting -= 1
        if not grouped:
            parameter.grad = None
        elif waiting == 0:
            sizes = sum(p.numel() for p in parameters)
            _ = torch.empty(sizes, dtype=torch.float32, device="meta")  # what is summed over processes
            for p in parameters:
                p.grad = None

    for parameter in parameters:
        parameter.register_post_accumulate_grad_hook(release)
