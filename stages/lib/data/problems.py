"""Problems from a local file or a hub data set, with column names as given and never guessed."""

import csv
import difflib
import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Number
from pathlib import Path
from typing import Any

from padd_artifacts.errors import PaddError, UsageError
from padd_artifacts.manifest import Parent, canonical_json, file_parent

SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")
HUB_SPLIT = "train"
_HUB_ID = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?:/(?P<config>[\w.-]+))?(?::(?P<split>[\w\[\]%.:]+))?")

# Names that other data sets give these columns: for the hint in an error, never read in their place.
USUAL_NAMES = {
    "problem": ("question", "prompt", "query", "instruction", "input", "text"),
    "answer": ("final_answer", "ground_truth", "expected_answer", "target", "gold", "label", "solution"),
}


@dataclass(frozen=True)
class Problems:
    """Usable rows, and the numbers of rows without a problem or an answer.

    A row has ``id`` (text), ``problem``, ``answer`` (text, a number or a list of accepted answers), ``solution`` and
    ``subject`` (text or None), and ``extra``, the source's other columns.
    """

    rows: list[dict[str, Any]]
    no_problem: int
    no_answer: int


def load_problems(
    source: str,
    *,
    problem_column: str = "problem",
    answer_column: str = "answer",
    solution_column: str = "solution",
    subject_column: str = "subject",
) -> list[dict[str, Any]]:
    """Return the usable rows of :func:`read_problems`."""
    return read_problems(
        source,
        problem_column=problem_column,
        answer_column=answer_column,
        solution_column=solution_column,
        subject_column=subject_column,
    ).rows


def read_problems(
    source: str,
    *,
    problem_column: str = "problem",
    answer_column: str = "answer",
    solution_column: str = "solution",
    subject_column: str = "subject",
) -> Problems:
    """Read problems.

    Args:
        source: a .jsonl, .json (a list of objects), .parquet or .csv file, or a hub data set
            ``owner/name[/config][:split]`` (split ``train`` by default).
        problem_column, answer_column: must be there in at least one row.
        solution_column, subject_column: may be absent.

    Raises:
        PaddError: the source is missing, empty or broken.
        UsageError: no row has the problem or the answer column, or the column does not hold text.
    """
    records = [_flat(record) for record in read_records(source)]
    for role, column in (("problem", problem_column), ("answer", answer_column)):
        _check_column(source, records, role, column)
    own = {"id", problem_column, answer_column, solution_column}
    rows: list[dict[str, Any]] = []
    no_problem = no_answer = 0
    for record in records:
        problem, answer = record.get(problem_column), _answer(record.get(answer_column))
        if _missing(problem):
            no_problem += 1
        elif answer is None:
            no_answer += 1
        else:
            text = _text(source, problem_column, problem)
            rows.append(
                {
                    "id": text_id(text) if _missing(record.get("id")) else str(record["id"]),
                    "problem": text,
                    "answer": answer,
                    "solution": _optional(source, solution_column, record),
                    "subject": _optional(source, subject_column, record),
                    "extra": {key: _plain(value) for key, value in record.items() if key not in own},
                }
            )
    return Problems(rows, no_problem, no_answer)


def read_records(source: str) -> list[dict[str, Any]]:
    """Read the source's rows unchanged; PaddError as :func:`read_problems`."""
    path = Path(source)
    if path.is_file():
        records = _read_file(path)
    elif path.suffix in SUFFIXES or not (named := _HUB_ID.fullmatch(source)) or path.is_dir():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise PaddError(
            f"{source} {what}, so there are no problems to read; give a {', '.join(SUFFIXES)} file "
            "or a hub data set as owner/name."
        )
    else:
        records = _read_hub(source, named)
    if not records:
        raise PaddError(f"{source} is empty, so there are no problems to read; check how it was made.")
    return records


def _read_file(path: Path) -> list[dict[str, Any]]:
    readers = {".jsonl": _read_jsonl, ".json": _read_json, ".csv": _read_csv, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise UsageError(
            f"{path} is of no known kind, so it cannot be read; give a {', '.join(SUFFIXES)} file."
        )
    try:
        return readers[path.suffix](path)
    except UnicodeDecodeError as error:
        raise PaddError(
            f"{path} is not UTF-8 text (byte {error.start}), so it cannot be read; convert it first."
        ) from error


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    with path.open(encoding="utf-8-sig") as handle:
        for number, line in enumerate(handle, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                raise PaddError(
                    f"line {number} of {path} is not valid JSON ({error}), so the file is not read; "
                    "mend or remove that line."
                ) from error
            if not isinstance(record, dict):
                raise PaddError(
                    f"line {number} of {path} is a {type(record).__name__} where an object is needed, "
                    "so the file is not read; mend or remove that line."
                )
            records.append(record)
    return records


def _read_json(path: Path) -> list[dict[str, Any]]:
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig") or "[]")
    except (json.JSONDecodeError, RecursionError) as error:
        raise PaddError(f"{path} is not valid JSON ({error}), so it is not read; mend it.") from error
    if not isinstance(value, list) or not all(isinstance(record, dict) for record in value):
        raise PaddError(f"{path} is not a list of objects, so it holds no rows; write one object a problem.")
    return value


def _read_csv(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as handle:
        try:
            return [{key: value for key, value in row.items() if key} for row in csv.DictReader(handle)]
        except csv.Error as error:
            raise PaddError(f"{path} is not valid CSV ({error}), so it is not read; mend it.") from error


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise PaddError(
            f"{path} is not a readable parquet file ({first_line(error)}); make it again."
        ) from error


def _read_hub(source: str, named: re.Match[str]) -> list[dict[str, Any]]:
    from datasets import load_dataset

    split = named["split"] or HUB_SPLIT
    try:
        return [dict(row) for row in load_dataset(named["name"], named["config"], split=split)]
    except Exception as error:  # the hub's client raises a dozen kinds: offline, not found, no such split
        raise PaddError(
            f"there is no file {source} here, and the hub data set '{named['name']}' (split '{split}') could not be "
            f"read ({first_line(error)}), so there are no problems; go online, or give a local file."
        ) from error


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """Lift the columns that a split artifact keeps under ``extra`` back into the row."""
    extra = record.get("extra")
    if not isinstance(extra, dict):
        return record
    return {**extra, **{key: value for key, value in record.items() if key != "extra"}}


def _check_column(source: str, records: list[dict[str, Any]], role: str, column: str) -> None:
    if any(column in record for record in records):
        return
    columns = list(dict.fromkeys(key for record in records for key in record))
    usual = [name for name in (role, *USUAL_NAMES[role]) if name in columns]
    close = usual or difflib.get_close_matches(column, columns, n=1)
    hint = f"did you mean column '{close[0]}'? Name it with" if close else "name the right one with"
    raise UsageError(
        f"no row of {source} has the {role} column '{column}' (columns: {', '.join(columns) or 'none'}), "
        f"so it holds no problems; {hint} --{role}-column."
    )


def _missing(value: object) -> bool:
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def _answer(value: Any) -> Any:
    """Return a gold answer as given, None where there is none; lists lose their empty members."""
    if isinstance(value, list | tuple):
        answers = [each for each in value if not _missing(each)]
        return answers or None
    return None if _missing(value) else value


def _text(source: str, column: str, value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Number):
        return str(value)
    raise UsageError(
        f"column '{column}' of {source} holds {type(value).__name__} where text is needed, so problems cannot be read "
        "from it; name another column."
    )


def _optional(source: str, column: str, record: dict[str, Any]) -> str | None:
    value = record.get(column)
    return None if _missing(value) else _text(source, column, value)


def _plain(value: Any) -> Any:
    """Convert a value to one that JSON can hold."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float) else str(value)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, cut to fit into a sentence."""
    lines: Iterable[str] = str(error).strip().splitlines()
    return next(iter(lines), type(error).__name__)[:200]


def source_parent(source: str, rows: list[dict[str, Any]]) -> Parent:
    """Return a file of problems as a parent by its bytes; a hub data set by its rows."""
    path = Path(source)
    if path.is_file():
        return file_parent(path)
    digest = hashlib.sha256(canonical_json(rows).encode()).hexdigest()
    return Parent(kind="hub-dataset", digest=digest, path=source)


Row = dict[str, Any]


def normalise(text: str) -> str:
    """Return the form in which problems are compared: NFKC, case folded, runs of white space as one space."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split())


def text_id(problem: str) -> str:
    """Derive an id from the problem alone, for rows that have none."""
    return "p-" + hashlib.blake2b(_encode(normalise(problem)), digest_size=8).hexdigest()


def _encode(text: str) -> bytes:
    return text.encode("utf-8", errors="surrogatepass")
