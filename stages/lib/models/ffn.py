"""The feed-forward layers of a dense teacher: weights streamed from safetensors, activations recorded by hooks.

Layers are found by the names of their parameters, so that a checkpoint's rows are read one matrix at a time
without building the model, and a new family is one line in ``FAMILIES``.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor, nn

from padd_artifacts.errors import PaddError

WeightChoice = Literal["gate", "up", "gate+up"]
NAMES_SHOWN = 12


@dataclass(frozen=True)
class FFNFamily:
    """Names of the linear modules inside a decoder layer.

    first: the first matrices, gate then up; one where there is no gate. fused: one matrix holds gate and up, in this
    order. transposed: weights are (in, out), as GPT-2's Conv1D stores them.
    """

    first: tuple[str, ...]
    down: str
    fused: bool = False
    transposed: bool = False

    @property
    def gated(self) -> bool:
        """Whether there is an up matrix beside the first."""
        return self.fused or len(self.first) == 2


FAMILIES = (
    # Llama, Qwen2, Qwen3, Mistral, Gemma, SmolLM, DeepSeek-LLM
    FFNFamily(first=("mlp.gate_proj", "mlp.up_proj"), down="mlp.down_proj"),
    FFNFamily(first=("mlp.gate_up_proj",), down="mlp.down_proj", fused=True),  # Phi-3, GLM-4
    FFNFamily(first=("mlp.c_fc",), down="mlp.c_proj", transposed=True),  # GPT-2
    FFNFamily(first=("fc1",), down="fc2"),  # OPT
)


@dataclass(frozen=True)
class FFNLayers:
    """A model's FFN layers: ``names[t]`` is the full name of decoder layer t."""

    family: FFNFamily
    names: tuple[str, ...]


def find_ffn_layers(modules: Iterable[str], what: str) -> FFNLayers:
    """Recognise a dense decoder by the names of its modules (those of its parameters without ``.weight``).

    Raises:
        PaddError: no family's names, or names of two decoders; it lists the modules that were found.
    """
    known = set(modules)
    found: list[FFNLayers] = []
    for family in FAMILIES:
        pattern = re.compile(rf"((?:.*\.)?(?:layers|h)\.)(\d+)\.{re.escape(family.first[0])}")
        stacks: dict[str, set[int]] = {}
        for match in filter(None, map(pattern.fullmatch, known)):
            prefix, index = match[1], int(match[2])
            if all(f"{prefix}{index}.{name}" in known for name in (*family.first, family.down)):
                stacks.setdefault(prefix, set()).add(index)
        found += [
            FFNLayers(family, tuple(f"{prefix}{index}" for index in range(len(indices))))
            for prefix, indices in stacks.items()
            if indices == _all_layers(prefix, known)
        ]
    if len(found) != 1:
        raise PaddError(
            f"{what} has {len(found)} stacks of dense FFN layers with names that padd knows, where one is needed, so "
            f"its neurons cannot be read; known are {_known_families()}, found were {_distinct_names(known)}."
        )
    return found[0]


def _all_layers(prefix: str, names: Iterable[str]) -> set[int]:
    """Return the layer indices below a prefix: a stack counts only if all its layers are dense."""
    pattern = re.compile(rf"{re.escape(prefix)}(\d+)\..*")
    return {int(match[1]) for match in map(pattern.fullmatch, names) if match}


def _known_families() -> str:
    return ", ".join(" + ".join((*family.first, family.down)) for family in FAMILIES)


def _distinct_names(names: Iterable[str]) -> str:
    """List the distinct names, their numbers replaced by a star."""
    distinct = sorted({re.sub(r"\d+", "*", name) for name in names})
    more = f" and {len(distinct) - NAMES_SHOWN} more" if len(distinct) > NAMES_SHOWN else ""
    return (", ".join(distinct[:NAMES_SHOWN]) or "no modules") + more


def ffn_sizes(model: nn.Module) -> tuple[int, int]:
    """Return the FFN layers and the neurons of each of a dense model, which may be on the meta device.

    Raises:
        PaddError: not a dense family that padd knows.
    """
    found = find_ffn_layers((name for name, _ in model.named_modules()), type(model).__name__)
    first = model.get_submodule(f"{found.names[0]}.{found.family.first[0]}")
    assert isinstance(first.weight, Tensor)
    outer = first.weight.shape[1 if found.family.transposed else 0]
    return len(found.names), outer // 2 if found.family.fused else outer


class FFNReader:
    """Reader of the first FFN matrices of a checkpoint folder, with one matrix in memory at a time.

    Attributes: num_layers L_T; hidden d_T; width d_ff; gated, whether there is an up matrix.
    """

    def __init__(self, folder: Path) -> None:
        """Read the headers of the files.

        Raises:
            PaddError: no safetensors files, or not a dense family that padd knows.
        """
        self._files = _weight_files(folder)
        modules = {name.removesuffix(".weight") for name in self._files if name.endswith(".weight")}
        self._layers = find_ffn_layers(modules, str(folder))
        self.num_layers = len(self._layers.names)
        family = self._layers.family
        shape = self._shape(f"{self._layers.names[0]}.{family.first[0]}.weight")
        outer, self.hidden = (shape[1], shape[0]) if family.transposed else (shape[0], shape[1])
        self.width = outer // 2 if family.fused else outer
        self.gated = family.gated

    def rows(self, layer: int, weights: WeightChoice = "gate") -> NDArray[np.float32]:
        """Read the neuron vectors of a layer.

        Args:
            weights: the first matrix that is read; ``gate`` is the only one where there is no other.

        Returns:
            (d_ff, d_T) fp32, or (d_ff, 2 d_T) with gate before up for ``gate+up``.

        Raises:
            PaddError: ``up`` or ``gate+up`` of a family without an up matrix, or quantised weights.
        """
        if weights != "gate" and not self.gated:
            raise PaddError(
                f"--weights {weights} needs an up matrix and this teacher's FFN has one first matrix "
                f"({self._layers.family.first[0]}), so there is none to read; take --weights gate."
            )
        parts = [self._read(layer, part) for part in weights.split("+")]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def _read(self, layer: int, part: str) -> NDArray[np.float32]:
        family = self._layers.family
        position = 1 if part == "up" else 0
        name = f"{self._layers.names[layer]}.{family.first[0 if family.fused else position]}.weight"
        with safe_open(self._files[name], framework="pt") as handle:
            if family.fused:
                weight = handle.get_slice(name)[position * self.width : (position + 1) * self.width]
            else:
                weight = handle.get_tensor(name)
        if weight.dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
            raise PaddError(
                f"{name} is stored as {weight.dtype}, a quantised type whose scales padd does not read, so distances "
                "between neurons mean nothing; give the checkpoint in bfloat16 or float32."
            )
        weight = weight.T if family.transposed else weight
        return weight.float().contiguous().numpy()

    def _shape(self, name: str) -> list[int]:
        with safe_open(self._files[name], framework="pt") as handle:
            return handle.get_slice(name).get_shape()


def _weight_files(folder: Path) -> dict[str, Path]:
    """Return the file of every tensor name of a folder's safetensors files."""
    files: dict[str, Path] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as handle:
            files.update(dict.fromkeys(handle.keys(), path))
    if not files:
        raise PaddError(
            f"{folder} holds no safetensors files, so the teacher's neurons cannot be read; save the model with "
            "transformers' save_pretrained, which writes them."
        )
    return files


class FFNActivations:
    """Inputs and activations of chosen FFN layers in a model's last forward; made by :meth:`attach`.

    Tokens are all B * T positions in order, padding included.
    """

    def __init__(self, reduce: Callable[[int, Tensor], Tensor] | None) -> None:
        self._reduce = reduce
        self._activations: dict[int, Tensor] = {}
        self._inputs: dict[int, Tensor] = {}

    @classmethod
    @contextmanager
    def attach(
        cls,
        model: nn.Module,
        layers: Sequence[int],
        reduce: Callable[[int, Tensor], Tensor] | None = None,
        *,
        inputs: bool = True,
    ) -> Iterator["FFNActivations"]:
        """Record decoder layers ``layers`` while the context is open.

        Args:
            reduce: (layer, activations (tokens, d_ff)) -> what to keep of them, so that a wide model's neurons are not
                all held at once; everything by default.
            inputs: whether to keep the inputs of the first matrices, too.

        Raises:
            PaddError: not a dense family that padd knows.
        """
        modules = dict(model.named_modules())
        found = find_ffn_layers(modules, type(model).__name__)
        recorder = cls(reduce)
        handles = []
        for layer in layers:
            first = modules[f"{found.names[layer]}.{found.family.first[0]}"]
            down = modules[f"{found.names[layer]}.{found.family.down}"]
            if inputs:
                handles.append(first.register_forward_pre_hook(recorder._record_inputs(layer)))
            handles.append(down.register_forward_pre_hook(recorder._record_activations(layer)))
        try:
            yield recorder
        finally:
            for handle in handles:
                handle.remove()

    def activations(self, layer: int) -> Tensor:
        """Return |activation| before the down projection, (tokens, d_ff) fp32, or the result of ``reduce``."""
        return self._activations[layer]

    def inputs(self, layer: int) -> Tensor:
        """Return the first matrix's input, (tokens, d_T), in the model's dtype."""
        return self._inputs[layer]

    def _record_inputs(self, layer: int) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            self._inputs[layer] = args[0].detach().flatten(0, -2)

        return hook

    def _record_activations(self, layer: int) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            values = args[0].detach().flatten(0, -2).float().abs()
            self._activations[layer] = values if self._reduce is None else self._reduce(layer, values)

        return hook


def cluster_means(activations: Tensor, assignment: Tensor, clusters: int) -> Tensor:
    """Compute the mean |activation| of each cluster's neurons, differentiably.

    This is one token's share of h_j (docs/METHOD.md, section 2, "Target activation distribution").

    Args:
        activations: (tokens, d_ff).
        assignment: (d_ff,) the cluster of each neuron.

    Returns:
        (tokens, N).
    """
    assignment = assignment.to(activations.device).long()
    sums = activations.new_zeros(len(activations), clusters).index_add(1, assignment, activations)
    return sums / torch.bincount(assignment, minlength=clusters)
