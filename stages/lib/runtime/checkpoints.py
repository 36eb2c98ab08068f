"""Checkpoints from which a run resumes bit for bit: safetensors and JSON, nothing pickled.

A checkpoint is a folder whose ``state.json`` is written last; a folder without one was left by a killed run and is
ignored. Append-only logs are cut back to the length that they had at the checkpoint. That a checkpoint belongs to
the recipe that resumes is checked by the artifact writer, before anything here is read.

Sharded tensors are gathered one after another and written in pieces, so the host never holds more than a piece. A
checkpoint is independent of the number of processes that wrote it; any number can resume from it.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from padd_artifacts.errors import PaddError
from padd_artifacts.manifest import sha256_file
from padd_artifacts.space import reserving_space
from padd_stages.lib.compat.torchao import SIGNED, codes_and_scale
from padd_stages.lib.runtime.optimization import empty_moments
from padd_stages.lib.runtime.sharding import fill, gather, local_part

FOLDER = "checkpoints"
STATE = "state.json"
MODEL, OPTIMIZER = "model", "optimizer"
PIECE = 4 << 30  # chosen: bytes of tensors in one file, more only for a larger tensor


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
    writes: bool = True,
) -> None:
    """Write ``checkpoints/step-N`` and drop all but the newest ``keep`` and the one of the best score.

    With sharded parameters a collective.

    Args:
        parameters: the trainable ones, by name; their order is the optimizer's.
        tensors: other state, such as the router bias.
        state: JSON values.
        logs: names of append-only files in the run folder.
        score: of the checkpoint, higher is better; None where it has none.
        writes: False in all but one process of a run.

    Raises:
        NoSpace: it does not fit on the disk; nothing is left of it.
    """
    folder = run_folder / FOLDER / f"step-{step:06d}"
    weights = {f"parameter.{name}": value for name, value in parameters.items()}
    weights |= {f"tensor.{name}": value for name, value in tensors.items()}
    moments = {
        f"{index}.{key}{suffix}": part
        for index, values in optimizer.state_dict()["state"].items()
        for key, value in values.items()
        for suffix, part in _stored(torch.as_tensor(value)).items()
    }
    size = sum(value.numel() * value.element_size() for value in (*weights.values(), *moments.values()))
    if writes:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    try:
        with reserving_space(folder, size, f"the checkpoint of step {step}") if writes else nullcontext():
            for stem, named in ((MODEL, weights), (OPTIMIZER, moments)):
                _save_pieces(folder, stem, named, writes=writes)
            if writes:
                _write_state(run_folder, folder, step, score, state, logs)
    except Exception:
        if writes:
            shutil.rmtree(folder, ignore_errors=True)  # half a checkpoint only takes space
        raise
    if writes:
        _drop_old(run_folder, keep)


def _drop_old(run_folder: Path, keep: int) -> None:
    whole = _whole_checkpoints(run_folder)
    for old in {*whole} - {*whole[-keep:], _best_checkpoint(whole)}:
        (old / STATE).unlink()  # a folder without it is no checkpoint, should a kill come now
        shutil.rmtree(old)


def _write_state(
    run_folder: Path, folder: Path, step: int, score: float | None, state: dict[str, Any], logs: list[str]
) -> None:
    """Write the state file, which makes a folder of tensors a checkpoint."""
    content = {
        "step": step,
        "score": score,
        "state": state,
        "logs": {name: (run_folder / name).stat().st_size for name in logs if (run_folder / name).exists()},
        "sha256": {path.name: sha256_file(path) for path in sorted(folder.glob("*.safetensors"))},
    }
    temporary = folder / (STATE + ".tmp")
    temporary.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
    os.replace(temporary, folder / STATE)


def _save_pieces(folder: Path, stem: str, tensors: Mapping[str, Tensor], *, writes: bool) -> None:
    """Gather every tensor; write them as ``stem-00000.safetensors`` and so on where ``writes``."""
    piece: dict[str, Tensor] = {}
    files = size = 0
    for name, tensor in tensors.items():
        whole = gather(tensor.detach())
        if not writes:
            continue
        if piece and size + whole.nbytes > PIECE:
            save_file(piece, folder / f"{stem}-{files:05d}.safetensors")
            piece, size, files = {}, 0, files + 1
        piece[name] = whole.to("cpu", copy=True).contiguous()
        size += whole.nbytes
    if piece:
        save_file(piece, folder / f"{stem}-{files:05d}.safetensors")


def _load_pieces(folder: Path, stem: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that `_save_pieces` wrote, one after another."""
    for path in sorted(folder.glob(f"{stem}-*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (the file is no mapping)
                yield name, file.get_tensor(name)


def _whole_checkpoints(run_folder: Path) -> list[Path]:
    return [path for path in sorted((run_folder / FOLDER).glob("step-*")) if (path / STATE).is_file()]


def has_checkpoint(run_folder: Path) -> bool:
    """Return whether there is a whole checkpoint to resume from."""
    return bool(_whole_checkpoints(run_folder))


def _best_checkpoint(whole: list[Path]) -> Path | None:
    """Return the checkpoint of the highest score, of equals the newest; None if none has a score."""
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
    _load_optimizer(optimizer, _load_pieces(folder, OPTIMIZER))
    for name, size in content["logs"].items() if cut_logs else ():
        os.truncate(run_folder / name, size)
    return content["step"], content["state"], tensors


def load_best(
    run_folder: Path, *, parameters: Mapping[str, nn.Parameter]
) -> tuple[int, float, dict[str, Tensor]] | None:
    """Load the weights of the checkpoint of the best score.

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
    """Copy the weights into the parameters; return the other tensors."""
    tensors = {}
    for name, value in _load_pieces(folder, MODEL):
        kind, name = name.split(".", 1)
        if kind == "tensor":
            tensors[name] = value
        else:
            fill(parameters[name], value)
    return tensors


CODES, SCALE = ".codes", ".scale"


def _stored(value: Tensor) -> dict[str, Tensor]:
    """Return the tensors that a file holds of a part of the optimizer's state: 8-bit moments are two, or fp32."""
    local = value.to_local() if isinstance(value, DTensor) else value
    found = codes_and_scale(local)
    if found is None:
        return {"": value}
    if not isinstance(value, DTensor) or value.device_mesh.size() == 1:
        return dict(zip((CODES, SCALE), found))
    plain = local.dequantize()  # pyright: ignore[reportCallIssue]
    parts = DTensor.from_local(
        plain, value.device_mesh, value.placements, run_check=False, shape=value.shape, stride=value.stride()
    )
    return {"": parts}


def _load_optimizer(optimizer: torch.optim.Optimizer, moments: Iterable[tuple[str, Tensor]]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in moments:
        index, key = name.split(".", 1)
        parameter, values = parameters[int(index)], state.setdefault(int(index), {})
        key, _, part = key.partition(".")
        if key not in SIGNED:
            values[key] = value
            continue
        if key not in values:
            values[key] = empty_moments(optimizer, parameter)[key]
        moment = values[key]
        moment = moment.to_local() if isinstance(moment, DTensor) else moment
        if part:
            getattr(moment, part).copy_(value)
        else:
            whole = local_part(value, like=parameter)
            moment.copy_(whole.to_local() if isinstance(whole, DTensor) else whole)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
