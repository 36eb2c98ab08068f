"""Training texts of warmup: worked solutions of the data, or the teacher's own that the grader accepts."""

from dataclasses import dataclass
from typing import Any

from padd_artifacts.errors import PaddError
from padd_stages.lib.data.prompts import prompt_ids
from padd_stages.lib.data.sequences import TokenSequence, solution_ids
from padd_stages.lib.models.loading import LanguageModel
from padd_stages.warmup.options import WarmupOptions


@dataclass(frozen=True)
class WarmupItem:
    """A row with its tokens for the student and the prompt that the teacher reads."""

    row: dict[str, Any]
    sequence: TokenSequence
    teacher_prompt: tuple[int, ...]


@dataclass(frozen=True)
class BatchTotals:
    """Normalisers of the losses: counts over a step's whole batch, known before its first micro-batch.

    Attributes:
        tokens: all of them, prompts too (L_init over the data set).
        targets: response tokens (L_LM).
        comparable: response tokens that the teacher can be compared on (L_KD, L_init by token).
    """

    tokens: int
    targets: int
    comparable: int


def warmup_item(
    row: dict[str, Any], student: LanguageModel, teacher: LanguageModel, options: WarmupOptions
) -> WarmupItem | None:
    """Tokenise a row; None if it has no worked solution or does not fit in --max-length."""
    if not row.get("solution"):
        return None
    prompt = tuple(_prompt(student, row, options, thinking=options.thinking))
    response = solution_ids(student.tokenizer, row["solution"], student.tokenizer.eos_token_id)
    sequence = TokenSequence(prompt, response)
    if len(sequence) > options.max_length:
        return None
    return WarmupItem(row, sequence, tuple(_prompt(teacher, row, options, thinking=False)))


def warmup_items(
    rows: list[dict[str, Any]], student: LanguageModel, teacher: LanguageModel, options: WarmupOptions
) -> list[WarmupItem]:
    """Tokenise the rows that have a worked solution and fit.

    Raises:
        PaddError: fewer than two rows are left.
    """
    items = [item for row in rows if (item := warmup_item(row, student, teacher, options)) is not None]
    if len(items) < 2:
        by_teacher = options.warmup_text == "teacher"
        raise PaddError(
            f"{len(items)} rows of D_B have a {'right solution of the teacher' if by_teacher else 'worked solution'} "
            f"and at most {options.max_length} tokens, and warmup needs two or more; "
            f"{'' if by_teacher else 'take --warmup-text teacher, or '}raise --max-length."
        )
    return items


def _prompt(
    model: LanguageModel, row: dict[str, Any], options: WarmupOptions, *, thinking: bool
) -> list[int]:
    return prompt_ids(model.tokenizer, row["problem"], system=options.system, thinking=thinking)
