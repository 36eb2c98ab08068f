"""Checkpoints that a run goes on from bit for bit: safetensors and JSON, nothing pickled.

A checkpoint is a folder whose ``state.json`` is written last; a folder without one is the rest of a kill and is
ignored. Append-only logs are cut back to the length that they had at the checkpoint. That a checkpoint belongs to
the recipe that resumes is checked by the artifact writer, before anything here is read.
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
    score: float | None = None,
) -> None:
    """Write ``checkpoints/step-N`` and drop all but the newest ``keep`` and the one of the best score.

    Args:
        parameters: the trainable ones, by name; their order is the optimizer's.
        tensors: other state, such as the router bias.
        state: JSON values.
        logs: names of append-only files in the run folder.
        score: how good it is, higher is better; None where that is not asked.
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
        "score": score,
        "state": state,
        "logs": {name: (run_folder / name).stat().st_size for name in logs if (run_folder / name).exists()},
        "sha256": {name: sha256_file(folder / name) for name in (MODEL, OPTIMIZER)},
    }
    temporary = folder / (STATE + ".tmp")
    temporary.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
    os.replace(temporary, folder / STATE)
    whole = _whole_checkpoints(run_folder)
    for old in {*whole} - {*whole[-keep:], _best_checkpoint(whole)}:
        (old / STATE).unlink()  # a folder without it is no checkpoint, should a kill come now
        shutil.rmtree(old)


def _whole_checkpoints(run_folder: Path) -> list[Path]:
    return [path for path in sorted((run_folder / FOLDER).glob("step-*")) if (path / STATE).is_file()]


def _best_checkpoint(whole: list[Path]) -> Path | None:
    """The one of the highest score, of equals the newest; None if none has a score."""
    scores = [(json.loads((path / STATE).read_text(encoding="utf-8"))["score"], path) for path in whole]
    return max(((score, path) for score, path in scores if score is not None), default=(None, None))[1]


def load_checkpoint(
    run_folder: Path,
    *,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    cut_logs: bool = True,
) -> tuple[int, dict[str, Any], dict[str, Tensor]]:
    """Restore the newest whole checkpoint and cut the logs back to it.

    Args:
        cut_logs: False in all but one process of a run: the logs belong to that one.

    Returns:
        Steps done, the JSON state and the other tensors.

    Raises:
        PaddError: no whole checkpoint, or a changed file.
    """
    found = _whole_checkpoints(run_folder)
    if not found:
        raise PaddError(
            f"{run_folder} holds no whole checkpoint, so there is nothing to resume; --force to start anew."
        )
    folder = found[-1]
    content = _read_state(folder)
    tensors = _load_model(folder, parameters)
    _load_optimizer(optimizer, load_file(folder / OPTIMIZER))
    for name, size in content["logs"].items() if cut_logs else ():
        os.truncate(run_folder / name, size)
    return content["step"], content["state"], tensors


def load_best(
    run_folder: Path, *, parameters: Mapping[str, nn.Parameter]
) -> tuple[int, float, dict[str, Tensor]] | None:
    """Weights of the checkpoint of the best score.

    Returns:
        Its step, its score and the other tensors; None if no checkpoint has a score.

    Raises:
        PaddError: a changed file.
    """
    folder = _best_checkpoint(_whole_checkpoints(run_folder))
    if folder is None:
        return None
    content = _read_state(folder)
    return content["step"], content["score"], _load_model(folder, parameters)


def _read_state(folder: Path) -> dict[str, Any]:
    content = json.loads((folder / STATE).read_text(encoding="utf-8"))
    for name, digest in content["sha256"].items():
        if sha256_file(folder / name) != digest:
            raise PaddError(
                f"{folder / name} has changed since it was written, so the run cannot go on from it; "
                f"remove {folder} to resume from the checkpoint before."
            )
    return content


def _load_model(folder: Path, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Copy the weights; returns the other tensors."""
    tensors = load_file(folder / MODEL)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"parameter.{name}"])
    return {name[len("tensor.") :]: value for name, value in tensors.items() if name.startswith("tensor.")}


def _load_optimizer(optimizer: torch.optim.Optimizer, moments: dict[str, Tensor]) -> None:
    whole = optimizer.state_dict()
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in moments.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})
