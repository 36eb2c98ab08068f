"""Tensors as ranges of numbers in safetensors files: each process writes its own, any number of processes reads.

A file's metadata says where in the whole tensor each of its ranges starts. Nothing is pickled.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from padd_artifacts.errors import PaddError
from padd_artifacts.manifest import sha256_file

PIECE = (
    1 << 30
)  # chosen: bytes of tensors in one file, more only for a larger one; of a GPU's, what the host holds
STARTS = "starts"


@dataclass(frozen=True)
class Part:
    """A range of the numbers of a tensor, which is contiguous; ``start`` of the first, None of what is no range."""

    values: Tensor
    start: int | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return self.values.nbytes


def write_parts(folder: Path, stem: str, parts: Mapping[str, Part]) -> dict[str, str]:
    """Write ``stem-00000.safetensors`` and so on; what is on the host is not copied.

    Returns:
        The SHA-256 of each file, by its name.
    """
    digests = {}
    for number, piece in enumerate(_pieces(parts)):
        path = folder / f"{stem}-{number:05d}.safetensors"
        tensors = {name: part.values.cpu().contiguous() for name, part in piece.items()}
        starts = {name: part.start for name, part in piece.items() if part.start is not None}
        save_file(tensors, path, {STARTS: json.dumps(starts)})
        digests[path.name] = sha256_file(path)
    return digests


def _pieces(parts: Mapping[str, Part]) -> Iterator[dict[str, Part]]:
    piece: dict[str, Part] = {}
    size = 0
    for name, part in parts.items():
        if piece and size + part.nbytes > PIECE:
            yield piece
            piece, size = {}, 0
        piece[name] = part
        size += part.nbytes
    if piece:
        yield piece


@dataclass(frozen=True)
class StoredPart:
    """A range in a file: ``length`` numbers from ``start`` on; ``values[a:b]`` reads some of them."""

    start: int
    length: int
    values: Any


class PartReader:
    """What `write_parts` has written in any number of processes; a range is read only as far as it is wanted."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._whole: dict[str, Any] = {}
        self._stored: dict[str, list[StoredPart]] = {}
        for path in paths:
            file = safe_open(path, framework="pt")
            starts = json.loads((file.metadata() or {}).get(STARTS, "{}"))
            for name in file.keys():  # noqa: SIM118 (the file is no mapping)
                if name in starts:
                    values = file.get_slice(name)
                    stored = StoredPart(starts[name], values.get_shape()[0], values)
                    self._stored.setdefault(name, []).append(stored)
                else:
                    self._whole[name] = file

    def whole(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors that are no ranges and whose names have the prefix, by the rest of their names."""
        return {
            name.removeprefix(prefix): file.get_tensor(name)
            for name, file in self._whole.items()
            if name.startswith(prefix)
        }

    def stored(self, name: str) -> list[StoredPart]:
        """Return the ranges of a tensor that there are."""
        return self._stored.get(name, [])

    @torch.no_grad()
    def read(self, name: str, like: Tensor, start: int, more: Mapping[StoredPart, Any] | None = None) -> None:
        """Fill a tensor with the numbers of a range, in its order; ``start`` of the first.

        Args:
            more: further ranges, and what to read them from in place of their own values.

        Raises:
            PaddError: the files hold not all of it.
        """
        sources = {stored: stored.values for stored in self.stored(name)} | dict(more or {})
        direct = type(like) is Tensor and like.is_contiguous()  # 8-bit moments are no plain tensor
        numbers = like.view(-1) if direct else torch.empty(like.numel(), dtype=like.dtype, device=like.device)
        filled = sum(_copy_overlap(stored, values, numbers, start) for stored, values in sources.items())
        if filled != like.numel():
            raise PaddError(
                f"the checkpoint holds {filled} of the {like.numel()} numbers of {name} that this process needs, so "
                "the run cannot go on from it; it is of another student, or of another version of padd."
            )
        if not direct:
            like.copy_(numbers.view(like.shape))


def _copy_overlap(stored: StoredPart, values: Any, numbers: Tensor, start: int) -> int:
    """Copy what a stored range has in common with the numbers from ``start`` on; return how many."""
    first = max(stored.start, start)
    last = min(stored.start + stored.length, start + numbers.numel())
    if first >= last:
        return 0
    numbers[first - start : last - start].copy_(values[first - stored.start : last - stored.start])
    return last - first
