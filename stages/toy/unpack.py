"""Unpacking of the embedded problems and models to where the stages can read them like anyone's own."""

import json
from pathlib import Path
from typing import Any

import torch

from padd_artifacts.errors import PaddError
from padd_artifacts.manifest import sha256_file
from padd_stages.toy.options import DEFAULT_PROBLEMS
from padd_stages.toy.packing import MANIFEST, MODELS, WEIGHTS, convert_checkpoint
from padd_stages.toy.problems import generate


def shipped_manifest(weights: Path = WEIGHTS) -> dict[str, Any]:
    """Return the manifest of the shipped weights after checking every file against it.

    Raises:
        PaddError: a file is missing or is not the one that was measured.
    """
    if not (weights / MANIFEST).is_file():
        raise PaddError(
            f"The embedded toy models are not in {weights} ({MANIFEST} is missing), so there is nothing to unpack; "
            "install padd again."
        )
    manifest = json.loads((weights / MANIFEST).read_text(encoding="utf-8"))
    for name, entry in manifest["files"].items():
        path = weights / name
        found = sha256_file(path) if path.is_file() else "no such file"
        if found != entry["sha256"]:
            raise PaddError(
                f"The embedded {name} should have sha256 {entry['sha256']} but there is {found}, so the toy models "
                "would not be the measured ones; install padd again."
            )
    return manifest


def unpack(folder: Path, problems: int = DEFAULT_PROBLEMS, seed: int = 0) -> dict[str, Any]:
    """Write `problems.jsonl`, `teacher/` and `student/` into a folder, made if it is not there.

    Args:
        folder: existing files of these names are replaced.
        problems: how many toy problems; none of them was seen in pre-training.
        seed: of the problems; the models are always the same.

    Returns:
        The report of the build that made the shipped weights: recipe and measured accuracies.

    Raises:
        PaddError: the shipped files are not whole, or there are not so many problems.
    """
    report = shipped_manifest()["toy"]
    rows = generate(problems, seed)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (folder / "problems.jsonl").write_text("".join(lines), encoding="utf-8")
    for name in MODELS:
        # float32: bfloat16 has no fast kernels on most CPUs, which is where the toy models run.
        convert_checkpoint(WEIGHTS / name, folder / name, torch.float32)
    return report
