"""The text that a routing analysis reads: problems with their worked solutions, and which tokens count."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from padd_artifacts.errors import PaddError
from padd_stages.data.problems import read_records
from padd_stages.data.prompts import prompt_ids
from padd_stages.data.subdomains import SUBDOMAINS, classify

LABEL_COLUMNS = ("subdomain", "subject")  # ours, and that of MATH


@dataclass(frozen=True)
class AnalysisText:
    """Token ids of a problem; positions first to last - 1 are counted; ``subdomain`` indexes SUBDOMAINS."""

    ids: tuple[int, ...]
    first: int
    last: int
    subdomain: int

    def __len__(self) -> int:
        return len(self.ids)


def read_texts(source: Path) -> list[dict[str, Any]]:
    """Rows of a file of problems; unlike an evaluation's they need no answer, only ``problem``.

    Raises:
        PaddError: the file is missing, empty or broken, or a row has no ``problem``.
    """
    rows = read_records(str(source))
    for number, row in enumerate(rows, start=1):
        if not isinstance(row.get("problem"), str) or not row["problem"].strip():
            raise PaddError(
                f"row {number} of {source} has no 'problem', so there is no text to route; "
                "name the column 'problem', or remove that row."
            )
    return rows


def subdomain_of(row: dict[str, Any]) -> int:
    """Index of a row's subdomain in SUBDOMAINS: its own label where it has one, else by its words."""
    label = next((row[column] for column in LABEL_COLUMNS if row.get(column)), None)
    return SUBDOMAINS.index(classify(row["problem"], label))


def analysis_texts(
    tokenizer: Any, rows: Sequence[dict[str, Any]], *, system: str, thinking: bool, max_tokens: int
) -> tuple[list[AnalysisText], int]:
    """Prompt (chat template) and worked solution of each row.

    The solution's tokens are counted; without a solution the problem's own, which are those between the parts of
    the template that an empty problem has too. Texts are cut after ``max_tokens``.

    Returns:
        One text a row, and the number of rows left out because the cut leaves no token to count.
    """
    empty = prompt_ids(tokenizer, "", system=system, thinking=thinking)
    texts = []
    for row in rows:
        prompt = list(prompt_ids(tokenizer, row["problem"], system=system, thinking=thinking))
        solution = row.get("solution")
        if solution:
            ids = prompt + list(tokenizer(solution, add_special_tokens=False)["input_ids"])
            first, last = len(prompt), len(ids)
        else:
            ids = prompt
            first, last = _between(prompt, empty)
        last = min(last, max_tokens)
        if first < last:
            texts.append(AnalysisText(tuple(ids[:max_tokens]), first, last, subdomain_of(row)))
    return texts, len(rows) - len(texts)


def _between(ids: Sequence[int], frame: Sequence[int]) -> tuple[int, int]:
    """Start and end of what stands in ``ids`` between the beginning and the end that it shares with ``frame``."""
    shortest = min(len(ids), len(frame))
    first = next((i for i in range(shortest) if ids[i] != frame[i]), shortest)
    room = shortest - first
    shared_end = next((i for i in range(room) if ids[-1 - i] != frame[-1 - i]), room)
    return first, len(ids) - shared_end
