"""Checkpoints that a run goes on from bit for bit: safetensors and JSON, nothing pickled.

A checkpoint is a folder whose ``state.json`` is written last; a folder without one is the rest of a kill and is
ignored. Append-only logs are cut back to the length that they had at the checkpoint.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from padd_artifacts.errors import PaddError
from padd_artifacts.manifest import sha256_file

FOLDER = "checkpoints"
STATE = "state.json"
MODEL = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"


def save_checkpoint(
    run_folder: Path,
    step: int,
    *,
    parameters: Mapping[str, nn.Parameter],
    tensors: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    logs: list[str],
    keep: int,
) -> None:
    """Write ``checkpoints/step-N`` and drop all but the newest ``keep``.

    Args:
        parameters: the trainable ones, by name; their order is the optimizer's.
        tensors: other state, such as the router bias.
        state: JSON values; the recipe key among them, so that another run's checkpoint is not taken.
        logs: names of append-only files in the run folder.
    """
    folder = run_folder / FOLDER / f"step-{step:06d}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    weights = {f"parameter.{name}": value.detach().contiguous() for name, value in parameters.items()}
    save_file(weights | {f"tensor.{name}": value.clone() for name, value in tensors.items()}, folder / MODEL)
    moments: dict[str, Tensor] = {}
    for index, values in optimizer.state_dict()["state"].items():
        for key, value in values.items():
            moments[f"{index}.{key}"] = torch.as_tensor(value).clone()
    save_file(moments, folder / OPTIMIZER)
    content = {
        "step": step,
        "state": state,
        "logs": {name: (run_folder / name).stat().st_size for name in logs if (run_folder / name).exists()},
        "sha256": {name: sha256_file(folder / name) for name in (MODEL, OPTIMIZER)},
    }
    temporary = folder / (STATE + ".tmp")
    temporary.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
    os.replace(temporary, folder / STATE)
    for old in _whole_checkpoints(run_folder)[:-keep]:
        shutil.rmtree(old)


def _whole_checkpoints(run_folder: Path) -> list[Path]:
    return [path for path in sorted((run_folder / FOLDER).glob("step-*")) if (path / STATE).is_file()]


def load_checkpoint(
    run_folder: Path,
    *,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    key: str,
) -> tuple[int, dict[str, Any], dict[str, Tensor]]:
    """Restore the newest whole checkpoint and cut the logs back to it.

    Returns:
        Steps done, the JSON state and the other tensors.

    Raises:
        PaddError: no whole checkpoint, a changed file, or one of a run with other inputs or options.
    """
    found = _whole_checkpoints(run_folder)
    if not found:
        raise PaddError(
            f"{run_folder} holds no whole checkpoint, so there is nothing to resume; leave --resume out to start anew."
        )
    folder = found[-1]
    content = json.loads((folder / STATE).read_text(encoding="utf-8"))
    for name, digest in content["sha256"].items():
        if sha256_file(folder / name) != digest:
            raise PaddError(
                f"{folder / name} has changed since it was written, so the run cannot go on from it; "
                f"remove {folder} to resume from the checkpoint before."
            )
    if content["state"]["key"] != key:
        raise PaddError(
            f"{run_folder} is of a run with other inputs or options, so it is not resumed; "
            "give that run's options again, or start anew without --resume."
        )
    tensors = load_file(folder / MODEL)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"parameter.{name}"])
    _load_optimizer(optimizer, load_file(folder / OPTIMIZER))
    for name, size in content["logs"].items():
        os.truncate(run_folder / name, size)
    others = {name[len("tensor.") :]: value for name, value in tensors.items() if name.startswith("tensor.")}
    return content["step"], content["state"], others


def _load_optimizer(optimizer: torch.optim.Optimizer, moments: dict[str, Tensor]) -> None:
    whole = optimizer.state_dict()
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in moments.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})


def remove_checkpoints(run_folder: Path) -> None:
    """A finished run needs none: its student is the result."""
    shutil.rmtree(run_folder / FOLDER, ignore_errors=True)
