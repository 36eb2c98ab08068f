"""Student and teacher vocabularies: mapped by token string, since size and order differ (docs/METHOD.md, section 4)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from padd_artifacts.errors import PaddError

MIN_SHARED = 0.99  # docs/METHOD.md, section 4: refuse below this share of the student's tokens


@dataclass(frozen=True)
class VocabularyMap:
    """The teacher token ids of student token ids.

    Attributes:
        to_teacher: (V_s,) teacher id of each student id, -1 where the teacher lacks the token.
        student_index, teacher_index: (M,) aligned ids of the shared tokens; both None when the vocabularies
            are the same, row for row.
        shared: share of the student's tokens that the teacher has.
        ends: the student's end of a response and the teacher's, where their strings differ and they were mapped.
    """

    to_teacher: Tensor
    student_index: Tensor | None
    teacher_index: Tensor | None
    shared: float
    ends: tuple[str, str] | None = None

    def translate(self, token_ids: list[int]) -> tuple[list[int], list[bool]]:
        """Return the teacher ids of a response without its unknown tokens, and which of its tokens are known."""
        mapped = self.to_teacher[torch.tensor(token_ids, dtype=torch.long)].tolist()
        return [token for token in mapped if token >= 0], [token >= 0 for token in mapped]


def map_vocabularies(
    student: Any,
    teacher: Any,
    student_rows: int,
    teacher_rows: int,
    teacher_ends: Sequence[int] | None = None,
) -> VocabularyMap:
    """Map vocabularies by token string, and the student's end of a response to the teacher's.

    Args:
        student, teacher: tokenizers.
        student_rows, teacher_rows: rows of the two output matrices (padding rows included).
        teacher_ends: every token that ends a response of the teacher; None leaves ends to their strings.

    Raises:
        PaddError: fewer than 99 % of the student's tokens are shared.
    """
    student_vocabulary: dict[str, int] = student.get_vocab()
    teacher_vocabulary: dict[str, int] = teacher.get_vocab()
    to_teacher = torch.full((student_rows,), -1, dtype=torch.long)
    for token, index in student_vocabulary.items():
        other = teacher_vocabulary.get(token, -1)
        if index < student_rows and other < teacher_rows:
            to_teacher[index] = other
    ends = None
    if teacher_ends is not None:
        ends = _map_ends(to_teacher, student, teacher, teacher_ends)
    student_index = (to_teacher >= 0).nonzero().squeeze(1)
    shared = len(student_index) / max(len(student_vocabulary), 1)
    if shared < MIN_SHARED:
        raise PaddError(
            f"teacher and student share {shared:.1%} of the student's {len(student_vocabulary):,} tokens and "
            f"distillation needs {MIN_SHARED:.0%}, so their distributions cannot be compared; "
            "choose a teacher whose tokenizer is of the student's kind."
        )
    if student_rows == teacher_rows and torch.equal(to_teacher, torch.arange(student_rows)):
        return VocabularyMap(to_teacher, None, None, shared, ends)
    return VocabularyMap(to_teacher, student_index, to_teacher[student_index], shared, ends)


def _map_ends(
    to_teacher: Tensor, student: Any, teacher: Any, teacher_ends: Sequence[int]
) -> tuple[str, str] | None:
    """Map the student's end of a response to the teacher's, in place, unless it is one of the teacher's by its string.

    The two words are exchanged: the student's word with the string of the teacher's end, if there is one, goes to the
    teacher's word with the string of the student's. So the map stays one to one.
    """
    end, wanted = student.eos_token_id, teacher.eos_token_id
    if end is None or wanted is None or int(to_teacher[end]) in teacher_ends:
        return None
    to_teacher[to_teacher == wanted] = int(to_teacher[end])
    to_teacher[end] = wanted
    return student.convert_ids_to_tokens(end), teacher.convert_ids_to_tokens(wanted)
