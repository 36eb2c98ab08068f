"""Interfaces of transformers: key-value caches, expert modules and routers, decoder layers, tokenizer files."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor, nn
from transformers import Cache, GPT2Config, GPT2LMHeadModel, Qwen3MoeConfig, Qwen3MoeForCausalLM

from padd_stages.lib.compat.probes import Library, Probe


def find_cache(outputs: Any) -> tuple[str, Cache] | None:
    """Find the key-value cache among a model's outputs, and its name, which is the forward's keyword for it, too.

    It is called `past_key_values` up to transformers 5.23 and `cache` since, `cache_params` in some older families.
    """
    found = ((name, value) for name, value in outputs.items() if isinstance(value, Cache))
    return next(found, None)


@contextmanager
def single_token_kernels(model: Any) -> Iterator[None]:
    """On GPUs, run experts by the kernel that is faster for few tokens, as `generate` does after the prompt."""
    found = model.get_experts_implementation()
    switched = {key: "batched_mm" if name == "grouped_mm" else name for key, name in found.items()}
    if model.device.type == "cpu" or switched == found:
        yield
        return
    model.set_experts_implementation(switched)
    try:
        yield
    finally:
        model.set_experts_implementation(found)


def attention_of(model: Any) -> str:
    """Return the name of the implementation that computes a model's attention."""
    return model.config._attn_implementation


def is_experts(module: object) -> TypeGuard[nn.Module]:
    """Return whether this is the one module that holds all experts of a layer, as stacked matrices."""
    return isinstance(module, nn.Module) and hasattr(module, "_apply_gate")


def apply_gate(experts: Any, inner: Tensor) -> Tensor:
    """Apply the family's nonlinearity: gate and up projections (tokens, 2 W) -> activations (tokens, W)."""
    return experts._apply_gate(inner)


def grouped_experts(
    experts: Any, hidden: Tensor, indices: Tensor, weights: Tensor, measure: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Run the chosen experts by the grouped kernel, and ``measure`` their activations on the way.

    Args:
        hidden: (tokens, D).
        indices, weights: (tokens, K).
        measure: takes activations (tokens * K, W) just before the down projection, in the kernel's order; a number a
            row.

    Returns:
        The output (tokens, D), and the numbers (tokens * K,) in the order of ``indices``.
    """
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    measured: list[Tensor] = []
    with _activations_seen(experts, lambda inner: measured.append(measure(inner))):
        out = ALL_EXPERTS_FUNCTIONS["grouped_mm"](experts, hidden, indices, weights)
    order = torch.sort(
        indices.reshape(-1)
    ).indices  # the kernel's own call, so its own order of equal experts
    return out, measured[0][order.argsort()]


@contextmanager
def _activations_seen(experts: Any, see: Callable[[Tensor], None]) -> Iterator[None]:
    """Hand on what the experts' nonlinearity returns, while the context is open."""
    if not experts.has_gate:
        handle = experts.act_fn.register_forward_hook(lambda _module, _arguments, inner: see(inner))
        try:
            yield
        finally:
            handle.remove()
        return
    native = experts._apply_gate

    def gate(inner: Tensor) -> Tensor:
        activations = native(inner)
        see(activations)
        return activations

    experts._apply_gate = gate
    try:
        yield
    finally:
        del experts._apply_gate


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """Return the decoder layers in order, the units of gradient checkpointing and of sharding."""
    from transformers.modeling_layers import GradientCheckpointingLayer  # here, so that its probe can miss it

    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def is_linear(module: nn.Module) -> bool:
    """Return whether a module multiplies by a matrix: torch's, or GPT-2's, which is transposed."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, nn.Linear | Conv1D)


def declared_tokenizer(source: str) -> str | None:
    """Return the class that a model's tokenizer_config.json names; None if it names none or there is no such file."""
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    return get_tokenizer_config(source).get("tokenizer_class")


def balancing_loss(logits: tuple[Tensor, ...], num_experts: int, top_k: int, mask: Tensor) -> Tensor:
    """Compute the load balancing loss of Switch Transformers.

    Args:
        logits: router logits (tokens, N) of each layer.
        mask: (B, T).
    """
    from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

    return load_balancing_loss_func(logits, num_experts, top_k, mask)  # type: ignore[return-value]


@cache
def _pico() -> Any:
    config = Qwen3MoeConfig(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=12,
        moe_intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,  # pyright: ignore[reportCallIssue]
        num_experts=3,
        num_experts_per_tok=2,
    )
    with torch.random.fork_rng(devices=[]):
        return Qwen3MoeForCausalLM(config).eval()


def _demand(holds: bool, otherwise: str) -> None:
    if not holds:
        raise RuntimeError(otherwise)


@torch.no_grad()
def _check_cache() -> None:
    model, ids = _pico(), torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    found = find_cache(model(input_ids=ids[:, :3], use_cache=True, logits_to_keep=1))
    _demand(found is not None, "a forward with use_cache=True returns no Cache")
    name, kept = found  # type: ignore[misc]
    _demand(name in inspect.signature(model.forward).parameters, f"forward takes no keyword '{name}'")
    kept.reorder_cache(cast(torch.LongTensor, torch.tensor([1])))
    positions = torch.tensor([[3]])
    read_on = model(input_ids=ids[1:, 3:], position_ids=positions, use_cache=True, **{name: kept}).logits
    whole = model(input_ids=ids[1:], use_cache=False).logits[:, -1:]
    _demand(torch.allclose(read_on, whole, atol=1e-5), "reading on from a cache gives other logits")


@torch.no_grad()
def _check_experts() -> None:
    experts = _pico().model.layers[0].mlp.experts
    _demand(is_experts(experts), "an experts module has no `_apply_gate`")
    flags = (experts.has_gate, experts.has_bias, experts.is_transposed, experts.has_post_expert_norm)
    _demand(flags == (True, False, False, False), f"Qwen3-MoE's layout is said to be {flags}")
    _demand(experts.num_experts == 3 and callable(experts.act_fn), "`num_experts` or `act_fn` is another")
    hidden = torch.linspace(-1, 1, 16).view(2, 8)
    inner = apply_gate(experts, hidden @ experts.gate_up_proj[2].T)
    native = experts(hidden, torch.full((2, 1), 2), torch.ones(2, 1))
    _demand(
        torch.allclose(native, inner @ experts.down_proj[2].T, atol=1e-5), "an expert computes something else"
    )


@torch.no_grad()
def _check_grouped() -> None:
    experts, hidden = _pico().model.layers[0].mlp.experts, torch.linspace(-1, 1, 32).view(4, 8)
    indices = torch.tensor([[2, 0], [1, 2], [0, 2], [2, 1]])
    weights = torch.tensor([[0.7, 0.3]]).expand(4, 2)
    out, means = grouped_experts(experts, hidden, indices, weights, lambda inner: inner.mean(-1))
    _demand(torch.allclose(out, experts(hidden, indices, weights), atol=1e-5), "it computes something else")
    wanted = [
        apply_gate(experts, row @ experts.gate_up_proj[expert].T).mean()
        for row, chosen in zip(hidden, indices.tolist())
        for expert in chosen
    ]
    _demand(torch.allclose(means, torch.stack(wanted), atol=1e-5), "its rows are in another order")


@torch.no_grad()
def _check_router() -> None:
    router = _pico().model.layers[0].mlp.gate
    _demand(tuple(router.weight.shape) == (3, 8) and router.top_k == 2, "`weight` or `top_k` is another")
    shapes = [tuple(value.shape) for value in router(torch.ones(4, 8))]
    _demand(shapes == [(4, 3), (4, 2), (4, 2)], f"it returns shapes {shapes}")


def _check_layers() -> None:
    _demand(decoder_layers(_pico()) == list(_pico().model.layers), "decoder layers are of another class")


def _check_linear() -> None:
    with torch.random.fork_rng(devices=[]):
        block: Any = GPT2LMHeadModel(GPT2Config(vocab_size=3, n_embd=4, n_head=1, n_layer=1)).transformer.h[0]
    _demand(is_linear(block.attn.c_attn), "GPT-2's projections are of another class")


def _check_kernels() -> None:
    model = _pico()
    model.set_experts_implementation(model.get_experts_implementation())
    _demand("" in model.get_experts_implementation(), "it names no implementation for the model itself")
    model.set_attn_implementation("eager")
    _demand(attention_of(model) == "eager", "it does not tell which attention it has set")


def _check_tokenizer_config() -> None:
    with TemporaryDirectory() as folder:
        Path(folder, "tokenizer_config.json").write_text('{"tokenizer_class": "A"}', encoding="utf-8")
        _demand(declared_tokenizer(folder) == "A", "it does not find the class that a file names")


def _check_balancing_loss() -> None:
    value = float(balancing_loss((torch.zeros(4, 3),), 3, 2, torch.ones(2, 2, dtype=torch.long)))
    _demand(abs(value - 2.0) < 1e-5, f"of an even router it is {value}")


LIBRARY = Library(
    "transformers",
    (
        Probe(
            "the key-value cache in a model's outputs, `Cache.reorder_cache`",
            "sample responses",
            _check_cache,
        ),
        Probe(
            "`_apply_gate`, `has_gate`, `has_bias`, `is_transposed`, `has_post_expert_norm`, `gate_up_proj`, "
            "`down_proj` of an experts module",
            "run the experts of a student",
            _check_experts,
        ),
        Probe(
            "`ALL_EXPERTS_FUNCTIONS['grouped_mm']` and its order of tokens",
            "read the activations of experts",
            _check_grouped,
        ),
        Probe(
            "a router's `weight`, `top_k` and its (logits, weights, indices)", "route tokens", _check_router
        ),
        Probe("`GradientCheckpointingLayer`", "find decoder layers", _check_layers),
        Probe("`Conv1D`", "find the matrices of GPT-2's attention", _check_linear),
        Probe(
            "`get_experts_implementation`, `set_experts_implementation`, `set_attn_implementation`, "
            "`_attn_implementation` of a configuration",
            "sample responses and choose kernels",
            _check_kernels,
        ),
        Probe("`get_tokenizer_config`", "tell which tokenizer a model names", _check_tokenizer_config),
        Probe("`load_balancing_loss_func`", "pre-train the toy student", _check_balancing_loss),
    ),
)
