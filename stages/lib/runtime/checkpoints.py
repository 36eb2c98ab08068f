"""Checkpoints from which a run resumes bit for bit: safetensors and JSON, nothing pickled.

A checkpoint is a folder whose ``state.json`` is written last; a folder without one was left by a killed run and is
ignored. Append-only logs are cut back to the length that they had at the checkpoint. That a checkpoint belongs to
the recipe that resumes is checked by the artifact writer, before anything here is read.

Each process writes its parts of what is sharded, and of what every process has whole the tensors that fall to it, in
files of its own. Any number of processes can resume: each reads the ranges that it needs.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from padd_artifacts.errors import PaddError
from padd_artifacts.manifest import sha256_file
from padd_artifacts.space import NoSpace, full_clause, reserving_space
from padd_stages.lib.runtime.moments import moment_parts, restore_moments, step_parts
from padd_stages.lib.runtime.parts import Part, PartReader, write_parts
from padd_stages.lib.runtime.processes import Processes
from padd_stages.lib.runtime.sharding import is_divided, local, start_of

FOLDER = "checkpoints"
STATE = "state.json"
MODEL, OPTIMIZER = "model", "optimizer"
PARAMETER, TENSOR = "parameter.", "tensor."


def save_checkpoint(
    run_folder: Path,
    step: int,
    *,
    parameters: Mapping[str, nn.Parameter],
    tensors: Mapping[str, Tensor],
    optimizer: Optimizer,
    state: dict[str, Any],
    logs: list[str],
    keep: int,
    processes: Processes,
    score: float | None = None,
) -> None:
    """Write ``checkpoints/step-N`` and drop all but the newest ``keep`` and the one of the best score. A collective.

    Args:
        parameters: the trainable ones, by name; their order is the optimizer's.
        tensors: other state, such as the router bias, the same in all processes.
        state: JSON values.
        logs: names of append-only files in the run folder.
        score: of the checkpoint, higher is better; None where it has none.

    Raises:
        NoSpace: it does not fit on the disk; nothing is left of it.
        PaddError: some process could not write; nothing is left of it either.
    """
    folder = run_folder / FOLDER / f"step-{step:06d}"
    what = f"the checkpoint of step {step}"
    files = _own_parts(parameters, tensors, optimizer, processes)
    own = sum(part.nbytes for parts in files.values() for part in parts.values())
    total = sum(processes.gather(own))

    def prepare() -> dict[str, str]:
        if processes.is_main:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            with reserving_space(folder, total, what):  # all of it, before any process takes some
                pass
        return {}

    def write() -> dict[str, str]:
        if not folder.is_dir():
            raise PaddError(
                f"process {processes.rank} does not see {folder}, which process 0 has made, and each writes its part "
                "of a checkpoint there; give --out a place that all machines share."
            )
        with reserving_space(folder, own, what):
            found = [write_parts(folder, f"{stem}-{processes.rank:05d}", p) for stem, p in files.items()]
        return {name: digest for digests in found for name, digest in digests.items()}

    try:
        _together(prepare, processes)
        digests = _together(write, processes)
        if processes.is_main:
            _write_state(run_folder, folder, step, score, state, logs, digests)
    except Exception:
        if processes.is_main:
            shutil.rmtree(folder, ignore_errors=True)  # half a checkpoint only takes space
        raise
    if processes.is_main:
        _drop_old(run_folder, keep)


def _together(action: Callable[[], dict[str, str]], processes: Processes) -> dict[str, str]:
    """Call in every process, merge what they return, and fail in all if it fails in one."""
    found: dict[str, str] = {}
    failed: Exception | None = None
    try:
        found = action()
    except Exception as error:
        failed = error
    clause = None if failed is None else full_clause(failed)
    ended = processes.gather((found, None if failed is None else str(failed), clause))
    if failed is not None:
        raise failed
    for _, sentence, full in ended:
        if sentence is not None:
            raise PaddError(sentence) if full is None else NoSpace(full)
    return {name: value for part, _, _ in ended for name, value in part.items()}


def _own_parts(
    parameters: Mapping[str, nn.Parameter],
    tensors: Mapping[str, Tensor],
    optimizer: Optimizer,
    processes: Processes,
) -> dict[str, dict[str, Part]]:
    """Return what this process writes, by the stem of the files and the name in them."""
    written = {
        name for name, rank in _writers(parameters, processes.world).items() if rank in (None, processes.rank)
    }
    model = {
        PARAMETER + name: Part(local(parameter).reshape(-1), start_of(parameter))
        for name, parameter in parameters.items()
        if name in written
    }
    moments = moment_parts(optimizer, {parameters[name] for name in written})
    if processes.is_main:
        model |= {TENSOR + name: Part(value.detach()) for name, value in tensors.items()}
        moments |= step_parts(optimizer)
    return {MODEL: model, OPTIMIZER: moments}


def _writers(parameters: Mapping[str, nn.Parameter], world: int) -> dict[str, int | None]:
    """Return the rank of the process that writes a parameter; None: each its part. They write equally much."""
    loads, ranks = [0] * world, dict[str, int | None]()
    for name, parameter in parameters.items():
        ranks[name] = None if is_divided(parameter) else loads.index(min(loads))
        if (rank := ranks[name]) is not None:
            loads[rank] += parameter.numel()
    return ranks


def _drop_old(run_folder: Path, keep: int) -> None:
    whole = _whole_checkpoints(run_folder)
    for old in {*whole} - {*whole[-keep:], _best_checkpoint(whole)}:
        (old / STATE).unlink()  # a folder without it is no checkpoint, should a kill come now
        shutil.rmtree(old)


def _write_state(
    run_folder: Path,
    folder: Path,
    step: int,
    score: float | None,
    state: dict[str, Any],
    logs: list[str],
    digests: dict[str, str],
) -> None:
    """Write the state file, which makes a folder of tensors a checkpoint."""
    content = {
        "step": step,
        "score": score,
        "state": state,
        "logs": {name: (run_folder / name).stat().st_size for name in logs if (run_folder / name).exists()},
        "sha256": digests,
    }
    temporary = folder / (STATE + ".tmp")
    temporary.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
    os.replace(temporary, folder / STATE)


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
    optimizer: Optimizer,
    processes: Processes,
) -> tuple[int, dict[str, Any], dict[str, Tensor]]:
    """Restore the newest whole checkpoint and cut the logs back to it. A collective.

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
    files = _checked(folder, content["sha256"], processes)
    tensors = _load_model(files, parameters)
    restore_moments(optimizer, PartReader(path for path in files if path.name.startswith(OPTIMIZER)))
    for name, size in content["logs"].items() if processes.is_main else ():
        os.truncate(run_folder / name, size)
    return content["step"], content["state"], tensors


def load_best(
    run_folder: Path, *, parameters: Mapping[str, nn.Parameter], processes: Processes
) -> tuple[int, float, dict[str, Tensor]] | None:
    """Load the weights of the checkpoint of the best score. A collective.

    Returns:
        Its step, its score and the other tensors; None if no checkpoint has a score.

    Raises:
        PaddError: a changed file.
    """
    processes.barrier()  # for the one that drops old checkpoints: all are to read the same
    folder = _best_checkpoint(_whole_checkpoints(run_folder))
    if folder is None:
        return None
    content = _read_state(folder)
    digests = {name: digest for name, digest in content["sha256"].items() if name.startswith(MODEL)}
    tensors = _load_model(_checked(folder, digests, processes), parameters)
    processes.barrier()  # what comes next may delete it
    return content["step"], content["score"], tensors


def _read_state(folder: Path) -> dict[str, Any]:
    return json.loads((folder / STATE).read_text(encoding="utf-8"))


def _checked(folder: Path, digests: Mapping[str, str], processes: Processes) -> list[Path]:
    """Return the files of a checkpoint; each is hashed by one of the processes.

    Raises:
        PaddError: one has changed or is gone, in all processes.
    """
    own = processes.deal(sorted(digests))
    changed = [n for n in own if not (folder / n).is_file() or sha256_file(folder / n) != digests[n]]
    for name in (name for part in processes.gather(changed) for name in part):
        raise PaddError(
            f"{folder / name} has changed since it was written, so the run cannot go on from it; "
            f"remove {folder} to resume from the checkpoint before."
        )
    return [folder / name for name in sorted(digests)]


def _load_model(files: list[Path], parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Read this process's parts of the weights into the parameters; return the other tensors."""
    reader = PartReader(path for path in files if path.name.startswith(MODEL))
    for name, parameter in parameters.items():
        reader.read(PARAMETER + name, local(parameter), start_of(parameter))
    return reader.whole(TENSOR)
