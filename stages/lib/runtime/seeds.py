"""Random orders that depend on a seed and a purpose, not on the state of a global generator."""

import hashlib

import numpy as np
import torch


def generator_for(*key: int | str) -> np.random.Generator:
    """Return a numpy generator of its own for each key."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def epoch_order(seed: int, epoch: int, count: int) -> list[int]:
    """Return the order in which ``count`` rows are visited in an epoch."""
    return generator_for(seed, "order", epoch).permutation(count).tolist()


def rows_at(seed: int, start: int, size: int, count: int) -> list[int]:
    """Return the row indices of positions start .. start + size of the endless stream of shuffled epochs."""
    rows: list[int] = []
    while len(rows) < size:
        epoch, offset = divmod(start + len(rows), count)
        rows.extend(epoch_order(seed, epoch, count)[offset : offset + size - len(rows)])
    return rows


def seed_everything(seed: int) -> None:
    """Seed torch's global generator, which dropout draws from."""
    torch.manual_seed(seed)
