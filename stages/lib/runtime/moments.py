"""An optimizer's moments as parts of a checkpoint: as many numbers as the weights have, or codes with their scales.

8-bit codes belong to blocks that begin where a process's part does. Read by as many processes as wrote them they are
the same bits; else they are read as numbers and coded anew.
"""

from collections.abc import Iterator, Set
from typing import Any

import torch
from torch import Tensor, nn

from padd_stages.lib.compat.torchao import SIGNED, codes_and_scale, dequantized
from padd_stages.lib.runtime.optimization import empty_moments
from padd_stages.lib.runtime.parts import Part, PartReader, StoredPart
from padd_stages.lib.runtime.sharding import local, start_of

STEP = "step."


def moment_parts(optimizer: torch.optim.Optimizer, written: Set[nn.Parameter]) -> dict[str, Part]:
    """Return this process's parts of the moments of the parameters that it writes, by name."""
    parts: dict[str, Part] = {}
    for index, parameter in enumerate(_parameters(optimizer)):
        state = optimizer.state.get(parameter, {})
        for key in SIGNED if state and parameter in written else ():
            name, start = f"{index}.{key}", start_of(parameter)
            moment = local(state[key])
            found = codes_and_scale(moment)
            if found is None:
                parts[name] = Part(moment.reshape(-1), start)
            else:  # the scales are named by the first number that they scale
                codes, scale = found
                parts |= {
                    f"{name}.codes": Part(codes.reshape(-1), start),
                    f"{name}.scale": Part(scale, start),
                }
    return parts


def step_parts(optimizer: torch.optim.Optimizer) -> dict[str, Part]:
    """Return the number of updates of each parameter, which all processes have."""
    return {
        f"{STEP}{index}": Part(torch.as_tensor(optimizer.state[parameter]["step"]))
        for index, parameter in enumerate(_parameters(optimizer))
        if optimizer.state.get(parameter)
    }


def restore_moments(optimizer: torch.optim.Optimizer, reader: PartReader) -> None:
    """Give an optimizer the moments of its parameters' parts in this process."""
    parameters = list(_parameters(optimizer))
    state: dict[int, dict[str, Tensor]] = {}
    for index, step in reader.whole(STEP).items():
        parameter = parameters[int(index)]
        moments = empty_moments(optimizer, parameter)
        for key, moment in moments.items():
            _restore(reader, f"{index}.{key}", local(moment), start_of(parameter), signed=SIGNED[key])
        state[int(index)] = {"step": step, **moments}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


@torch.no_grad()
def _restore(reader: PartReader, name: str, moment: Tensor, start: int, *, signed: bool) -> None:
    coded = codes_and_scale(moment)
    stored = reader.stored(f"{name}.codes")
    scales = {part.start: part for part in reader.stored(f"{name}.scale")}
    if coded is not None and (start, moment.numel()) in {(part.start, part.length) for part in stored}:
        codes, scale = coded
        scale.copy_(scales[start].values[:])
        reader.read(f"{name}.codes", codes, start)
    else:
        numbers = {part: _Numbers(part, scales[part.start], signed=signed) for part in stored}
        reader.read(name, moment, start, numbers)


class _Numbers:
    """What stored codes stand for; ``[a:b]`` reads the blocks that hold the numbers from a to b."""

    def __init__(self, codes: StoredPart, scales: StoredPart, *, signed: bool) -> None:
        self.codes, self.scales, self.signed = codes.values, scales.values, signed
        self.block = codes.length // scales.length

    def __getitem__(self, wanted: slice) -> Tensor:
        first, last = wanted.start // self.block, -(-wanted.stop // self.block)
        codes = self.codes[first * self.block : last * self.block]
        numbers = dequantized(codes, self.scales[first:last], signed=self.signed)
        return numbers[wanted.start - first * self.block : wanted.stop - first * self.block]


def _parameters(optimizer: torch.optim.Optimizer) -> Iterator[Any]:
    return (parameter for group in optimizer.param_groups for parameter in group["params"])
