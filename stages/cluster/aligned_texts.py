"""Texts of D_A in the tokens of teacher and student, aligned token by token.

Both read the same raw text, problem, newline, worked solution (the problem alone where there is none), and not a
chat template: two templates are different texts, in which a character offset would not mean the same place.
Tokens stand side by side when they end at the same character; tokens that stand for no text (begin and end of
sequence) are left out, since their activations are outliers that say nothing of a problem.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from padd_artifacts.errors import PaddError
from padd_stages.lib.data.alignment import Positions, align, require_offsets
from padd_stages.lib.data.sequences import micro_batches
from padd_stages.lib.data.subdomains import SUBDOMAINS
from padd_stages.lib.runtime.seeds import epoch_order


@dataclass(frozen=True)
class Tokens:
    """Token ids of a text; token i ends at character ``ends[i]``, -1 if it stands for no text."""

    ids: tuple[int, ...]
    ends: tuple[int, ...]

    @property
    def text_positions(self) -> Positions:
        """Positions of the tokens that stand for text."""
        return np.flatnonzero(np.asarray(self.ends) >= 0)


@dataclass(frozen=True)
class AlignedText:
    """One text; ``pairs`` (2, tokens) are positions of teacher and student tokens that end at the same character."""

    subdomain: int
    teacher: Tokens
    student: Tokens
    pairs: Positions


def text_of(row: dict[str, Any]) -> str:
    """Return the text of a row of the split artifact."""
    solution = row.get("solution")
    return f"{row['problem']}\n{solution}" if solution else row["problem"]


def tokenize(tokenizer: Any, text: str, max_length: int) -> Tokens:
    """Tokenise a text; return ids and the characters at which they end; PaddError as :func:`require_offsets`."""
    require_offsets(tokenizer)
    encoded = tokenizer(text, return_offsets_mapping=True, truncation=True, max_length=max_length)
    ends = tuple(end if end > start else -1 for start, end in encoded["offset_mapping"])
    return Tokens(tuple(encoded["input_ids"]), ends)


def read_texts(
    rows: list[dict[str, Any]],
    teacher_tokenizer: Any,
    student_tokenizer: Any,
    *,
    seed: int,
    max_tokens: int,
    max_lengths: tuple[int, int],
) -> list[AlignedText]:
    """Tokenise rows of D_A in the seed's random order, until ``max_tokens`` student tokens are reached.

    Args:
        max_lengths: longest text of the teacher and of the student, in tokens of each.

    Raises:
        PaddError: fewer than two rows (one is needed to fit and one to hold out), or a slow tokenizer.
    """
    texts: list[AlignedText] = []
    total = 0
    for index in epoch_order(seed, 0, len(rows)):
        text = text_of(rows[index])
        teacher = tokenize(teacher_tokenizer, text, max_lengths[0])
        student = tokenize(student_tokenizer, text, max_lengths[1])
        subdomain = SUBDOMAINS.index(rows[index]["subdomain"])
        texts.append(AlignedText(subdomain, teacher, student, align(teacher.ends, student.ends)))
        total += len(student.ids)
        if total >= max_tokens:
            break
    if len(texts) < 2:
        raise PaddError(
            f"D_A gives {len(texts)} texts and 2 are needed, one to fit the router map and one to hold out, so no "
            "router rows can be made; split more problems, or raise --max-tokens."
        )
    return texts


def batches(texts: list[AlignedText], token_budget: int) -> Iterator[list[AlignedText]]:
    """Group texts of similar length, rows x longest within the budget."""
    lengths = [max(len(text.teacher.ids), len(text.student.ids)) for text in texts]
    for indices in micro_batches(lengths, token_budget):
        yield [texts[index] for index in indices]


def flat_positions(positions: Sequence[Positions], width: int) -> Tensor:
    """Convert positions within each row to positions in the flattened (B * T) batch of row length ``width``."""
    return torch.from_numpy(np.concatenate([row * width + own for row, own in enumerate(positions)]))
