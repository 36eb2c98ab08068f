"""Texts of a routing analysis: problems with their worked solutions, and which tokens count."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from padd_artifacts.artifact import Artifact
from padd_artifacts.errors import PaddError
from padd_stages.lib.data.alignment import require_offsets
from padd_stages.lib.data.problems import read_records
from padd_stages.lib.data.prompts import prompt_ids, prompt_text
from padd_stages.lib.data.subdomains import SUBDOMAINS, classify, subdomain_of_label
from padd_stages.lib.runtime.seeds import generator_for

LABEL_COLUMNS = ("subdomain", "subject")  # ours, and that of MATH


@dataclass(frozen=True)
class Row:
    """A problem to analyse. ``label``: the subdomain that the data itself names, None where the keywords decided."""

    problem: str
    solution: str | None
    subdomain: str
    label: str | None


@dataclass(frozen=True)
class AnalysisText:
    """Token ids of a problem; positions first to last - 1 are counted; ``subdomain`` indexes SUBDOMAINS.

    ``row`` is the place of the problem among those that were given.
    """

    ids: tuple[int, ...]
    first: int
    last: int
    subdomain: int
    row: int

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def counted(self) -> int:
        """Number of counted tokens."""
        return self.last - self.first


def read_split(split: Artifact) -> list[Row]:
    """Read the rows of a split's D_D; only the source's own subject is a label, not a keyword match."""
    column = split.manifest.options.get("subject_column", "subject")
    return [
        Row(row["problem"], row["solution"], row["subdomain"], subdomain_of_label(row["extra"].get(column)))
        for row in split.jsonl("d.jsonl")
    ]


def read_texts(source: Path) -> list[Row]:
    """Read a file of problems; unlike an evaluation's they need no answer, only ``problem``.

    Raises:
        PaddError: the file is missing, empty or broken, a row has no ``problem``, or a ``solution`` that is no text.
    """
    rows = read_records(str(source))
    for number, row in enumerate(rows, start=1):
        if not isinstance(row.get("problem"), str) or not row["problem"].strip():
            raise PaddError(
                f"row {number} of {source} has no 'problem', so there is no text to route; "
                "name the column 'problem', or remove that row."
            )
        if not isinstance(row.get("solution", ""), str | None):
            raise PaddError(
                f"row {number} of {source} has a 'solution' that is no text ({row['solution']!r:.40}), so it cannot be "
                "read after its problem; write it as text, or leave it out."
            )
    return [_file_row(row) for row in rows]


def _file_row(row: dict[str, Any]) -> Row:
    given = (row[column] for column in LABEL_COLUMNS if isinstance(row.get(column), str))
    label = next((known for name in given if (known := subdomain_of_label(name))), None)
    return Row(row["problem"], row.get("solution"), classify(row["problem"], label), label)


def analysis_texts(
    tokenizer: Any, rows: Sequence[Row], *, system: str, thinking: bool, max_tokens: int
) -> tuple[list[AnalysisText], int]:
    """Tokenise prompt (chat template) and worked solution of each row.

    The solution's tokens are counted; without a solution the problem's own, which are those between the parts of
    the template that an empty problem has too. Texts are cut after ``max_tokens``.

    Returns:
        One text a row, and the number of rows left out because the cut leaves no token to count.
    """
    empty = prompt_ids(tokenizer, "", system=system, thinking=thinking)
    texts = []
    for number, row in enumerate(rows):
        prompt = list(prompt_ids(tokenizer, row.problem, system=system, thinking=thinking))
        if row.solution:
            ids = prompt + list(tokenizer(row.solution, add_special_tokens=False)["input_ids"])
            first, last = len(prompt), len(ids)
        else:
            ids = prompt
            first, last = _between(prompt, empty)
        last = min(last, max_tokens)
        if first < last:
            texts.append(
                AnalysisText(tuple(ids[:max_tokens]), first, last, SUBDOMAINS.index(row.subdomain), number)
            )
    return texts, len(rows) - len(texts)


def counted_ends(
    tokenizer: Any, row: Row, text: AnalysisText, *, system: str, thinking: bool
) -> tuple[int, ...]:
    """Return the character of the solution (or else of the problem) at which each counted token ends.

    -1 for a token that stands for no text, and for all of them where the template does not hold the problem as it is.
    Two models' tokens can be aligned by these (:func:`padd_stages.cluster.aligned_texts.align`).

    Raises:
        PaddError: the tokenizer does not know offsets (a slow one).
    """
    require_offsets(tokenizer)
    if row.solution:
        encoded = tokenizer(row.solution, add_special_tokens=False, return_offsets_mapping=True)
        offsets, start = encoded["offset_mapping"][: text.counted], 0
    else:
        prompt = prompt_text(tokenizer, row.problem, system=system, thinking=thinking)
        encoded = tokenizer(
            prompt, add_special_tokens=not tokenizer.chat_template, return_offsets_mapping=True
        )
        offsets, start = encoded["offset_mapping"][text.first : text.last], prompt.find(row.problem.strip())
    if start < 0:
        return (-1,) * text.counted
    return tuple(end - start if end > begin else -1 for begin, end in offsets)


def sample_texts(texts: Sequence[AnalysisText], tokens: int, seed: int) -> list[AnalysisText]:
    """Draw random texts, in their own order, of together at most ``tokens`` counted tokens; at least one text."""
    order = generator_for(seed, "analysed sample").permutation(len(texts))
    chosen, total = [], 0
    for index in order.tolist():
        if chosen and total + texts[index].counted > tokens:
            break
        chosen.append(index)
        total += texts[index].counted
    return [texts[index] for index in sorted(chosen)]


def _between(ids: Sequence[int], frame: Sequence[int]) -> tuple[int, int]:
    """Find start and end of the part of ``ids`` between the beginning and the end that it shares with ``frame``."""
    shortest = min(len(ids), len(frame))
    first = next((i for i in range(shortest) if ids[i] != frame[i]), shortest)
    room = shortest - first
    shared_end = next((i for i in range(room) if ids[-1 - i] != frame[-1 - i]), room)
    return first, len(ids) - shared_end
