"""Training texts of warmup: worked solutions of the data, or the teacher's own that the grader accepts."""

from dataclasses import dataclass
from typing import Any

from padd_artifacts.errors import PaddError
from padd_stages.lib.data.prompts import prompt_ids
from padd_stages.lib.data.sequences import TokenSequence, solution_ids
from padd_stages.lib.grading.grader import Grader
from padd_stages.lib.models.loading import LanguageModel
from padd_stages.lib.sampling.responses import Request, Sampling, sample
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


def warmup_items(
    rows: list[dict[str, Any]],
    student: LanguageModel,
    teacher: LanguageModel,
    grader: Grader,
    options: WarmupOptions,
) -> list[WarmupItem]:
    """Tokenise the rows that have a text and fit.

    Raises:
        PaddError: no row is left.
    """
    if options.warmup_text == "teacher":
        rows = _teacher_solutions(rows, teacher, grader, options)
    items = []
    for row in rows:
        if not row.get("solution"):
            continue
        prompt = tuple(_prompt(student, row, options, thinking=options.thinking))
        response = solution_ids(student.tokenizer, row["solution"], student.tokenizer.eos_token_id)
        sequence = TokenSequence(prompt, response)
        if len(sequence) <= options.max_length:
            items.append(WarmupItem(row, sequence, tuple(_prompt(teacher, row, options, thinking=False))))
    if len(items) < 2:
        raise PaddError(
            f"of {len(rows)} rows of D_B {len(items)} have a worked solution of at most {options.max_length} tokens, "
            "and warmup needs two or more; take --warmup-text teacher, or raise --max-length."
        )
    return items


def _prompt(
    model: LanguageModel, row: dict[str, Any], options: WarmupOptions, *, thinking: bool
) -> list[int]:
    return prompt_ids(model.tokenizer, row["problem"], system=options.system, thinking=thinking)


def _teacher_solutions(
    rows: list[dict[str, Any]], teacher: LanguageModel, grader: Grader, options: WarmupOptions
) -> list[dict[str, Any]]:
    """Replace solutions by ones sampled from the teacher; rows with wrong or truncated ones are dropped."""
    requests = [
        Request(
            tuple(_prompt(teacher, row, options, thinking=False)),
            (options.seed, "warmup-text", str(row["id"])),
        )
        for row in rows
    ]
    responses = sample(
        teacher.model,
        requests,
        Sampling(options.max_new_tokens),
        eos_ids=teacher.eos_ids,
        pad_id=teacher.pad_id,
        batch_tokens=options.generation_batch_tokens,
    )
    texts = [teacher.tokenizer.decode(r.token_ids, skip_special_tokens=True) for r in responses]
    verdicts = grader.grade([(text, row["answer"]) for text, row in zip(texts, rows, strict=True)])
    return [
        row | {"solution": text}
        for row, text, verdict, response in zip(rows, texts, verdicts, responses, strict=True)
        if verdict.correct and not response.truncated
    ]
