"""Interfaces of peft, which is optional: low-rank factors (LoRA) beside matrices and stacked matrices of a model."""

import importlib
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from padd_artifacts.errors import UsageError
from padd_stages.lib.compat.probes import Library, Probe, require

EXTRA = "pip install 'padd[lora]'"
ADAPTER = "default"


def require_lora() -> None:
    """Check that peft is there and is as padd needs it.

    Raises:
        UsageError: it is not installed.
        PaddError: another peft than padd knows.
    """
    try:
        importlib.import_module("peft")
    except ImportError as error:
        raise UsageError(
            f"--trainable lora needs peft, which cannot be imported ({error}); `{EXTRA}`, or take another --trainable."
        ) from error
    require(LIBRARY)


def add_factors(
    model: nn.Module, *, modules: Sequence[str], parameters: Sequence[str], rank: int, alpha: float
) -> None:
    """Put a pair of factors beside each of the named matrices, and train nothing else; what they add is 0 at first.

    Args:
        modules: full names of linear modules.
        parameters: full names of matrices (rows, columns) or stacks of them (N, ., .).
    """
    peft: Any = importlib.import_module("peft")
    config = peft.LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=list(modules), target_parameters=list(parameters)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of GPT-2's transposed matrices it says that it has understood them
        on_meta = any(parameter.is_meta for parameter in model.parameters())
        peft.inject_adapter_in_model(config, model, ADAPTER, low_cpu_mem_usage=on_meta)


@contextmanager
def running_on_meta() -> Iterator[None]:
    """Let factors be multiplied on the meta device, for which peft asks for an autocast that torch does not have."""
    native = torch.autocast

    def autocast(device_type: str, *arguments: Any, **options: Any) -> Any:
        return nullcontext() if device_type == "meta" else native(device_type, *arguments, **options)

    torch.autocast = autocast  # type: ignore[assignment, misc]
    try:
        yield
    finally:
        torch.autocast = native


def wrappers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield name and module of every pair of factors; of two on one module the outer first."""
    return ((name, module) for name, module in model.named_modules() if _is_wrapper(module))


def factors(wrapper: Any) -> dict[str, nn.Parameter]:
    """Return the two factors of a wrapper, by their names in it."""
    return {
        f"{name}.{ADAPTER}.weight": getattr(wrapper, name)[ADAPTER].weight for name in ("lora_A", "lora_B")
    }


def wrapped_weight(wrapper: Any) -> nn.Parameter:
    """Return the matrix that a wrapper's factors are beside."""
    return getattr(wrapper.get_base_layer(), getattr(wrapper, "parameter_name", "weight"))


class _Product(nn.Module):
    """Lets `functional_call` compute a wrapper's product of other factors than its own."""

    def __init__(self, wrapper: Any) -> None:
        super().__init__()
        self.wrapper = wrapper

    def forward(self) -> Tensor:
        return self.wrapper.get_delta_weight(ADAPTER)


def product_of(wrapper: Any, whole: Mapping[str, Tensor]) -> Tensor:
    """Return what factors, named as by `factors`, add to the wrapper's matrix, in its shape and type."""
    named = {f"wrapper.{name}": value for name, value in whole.items()}
    return torch.func.functional_call(_Product(wrapper), named, ())


def set_folded(wrapper: Any, folded: bool) -> None:
    """Say whether a wrapper's matrix has the product of its factors in it, so that forwards do not add it again."""
    wrapper.merged_adapters[:] = [ADAPTER] if folded else []


def _is_wrapper(module: nn.Module) -> TypeGuard[Any]:
    peft: Any = sys.modules.get("peft.tuners.tuners_utils")  # without it no model has factors
    return peft is not None and isinstance(module, peft.BaseTunerLayer)


class _Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stack = nn.Parameter(torch.linspace(-1, 1, 24).view(2, 4, 3), requires_grad=False)

    def forward(self, rows: Tensor) -> Tensor:
        return torch.einsum("td,nod->to", rows, self.stack)


@torch.no_grad()
def _check_factors() -> None:
    model, rows = nn.ModuleDict({"a": nn.Linear(3, 3), "b": _Stack()}), torch.linspace(-1, 1, 6).view(2, 3)
    before = [child(rows) for child in model.values()]
    add_factors(model, modules=["a"], parameters=["b.stack"], rank=2, alpha=4.0)
    found = dict(wrappers(model))
    if list(found) != ["a", "b"] or [wrapped_weight(w).dim() for w in found.values()] != [2, 3]:
        raise RuntimeError(f"it puts factors at {list(found)}")
    trained = [p for p in model.parameters() if p.requires_grad]
    if {id(p) for p in trained} != {id(p) for w in found.values() for p in factors(w).values()}:
        raise RuntimeError("it trains more or less than the factors")
    if not all(torch.equal(was, model[name](rows)) for was, name in zip(before, found, strict=True)):
        raise RuntimeError("new factors change the model")
    for parameter in trained:
        parameter.add_(0.1)
    wanted = [model[name](rows) for name in found]
    for wrapper in found.values():
        wrapped_weight(wrapper).add_(product_of(wrapper, factors(wrapper)))
        set_folded(wrapper, True)
    if not all(
        torch.allclose(x, model[name](rows), atol=1e-5) for x, name in zip(wanted, found, strict=True)
    ):
        raise RuntimeError("a matrix with the product of its factors is not what forwards compute")
    for wrapper in found.values():
        set_folded(wrapper, False)
    with running_on_meta():
        model.to("meta")["b"](rows.to("meta"))
    if torch.allclose(before[0], wanted[0]) or torch.allclose(before[1], wanted[1]):
        raise RuntimeError("factors do nothing")


LIBRARY = Library(
    "peft",
    (
        Probe(
            "`inject_adapter_in_model`, `target_parameters`, `get_delta_weight`, `merged_adapters`, `lora_A`, `lora_B`",
            "train low-rank factors",
            _check_factors,
        ),
    ),
)
