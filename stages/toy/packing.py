"""Packing of a built pair of models into the files that the package ships."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save

from padd_artifacts.manifest import sha256_file

WEIGHTS = Path(__file__).parent / "weights"
MANIFEST = "manifest.json"
MODELS = ("teacher", "student")


def convert_checkpoint(source: Path, target: Path, dtype: torch.dtype) -> None:
    """Copy a checkpoint of one safetensors file, floating-point tensors and config converted to `dtype`."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        if path.suffix == ".safetensors":
            tensors = {name: tensor.to(dtype) for name, tensor in load_file(path).items()}
            # Not save_file(), whose files nobody but their owner may read: an installed package is for everyone.
            (target / path.name).write_bytes(save(tensors, metadata={"format": "pt"}))
        elif path.name == "config.json":
            config = json.loads(path.read_text()) | {"dtype": str(dtype).removeprefix("torch.")}
            (target / path.name).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        else:
            shutil.copyfile(path, target / path.name)


def pack(built: Path, weights: Path = WEIGHTS) -> None:
    """Replace the shipped weights by those that `recipe.build` wrote into `built`.

    The weights are stored in bfloat16, which loses nothing: `build` has rounded them before it measured. The
    manifest holds the hash and size of every file and the report of the build.
    """
    shutil.rmtree(weights, ignore_errors=True)
    for name in MODELS:
        convert_checkpoint(built / name, weights / name, torch.bfloat16)
    files = {
        path.relative_to(weights).as_posix(): {"sha256": sha256_file(path), "size": path.stat().st_size}
        for path in sorted(weights.rglob("*"))
        if path.is_file()
    }
    manifest = {"files": files, "toy": json.loads((built / "toy.json").read_text())}
    (weights / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
