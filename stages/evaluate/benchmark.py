"""Benchmarks as YAML descriptions: the source of problems, the protocol of sampling, the grading."""

import hashlib
import os
from dataclasses import dataclass, replace
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from padd_artifacts.errors import PaddError, UsageError
from padd_artifacts.manifest import Parent, canonical_json
from padd_stages.lib.data.problems import first_line, load_problems
from padd_stages.lib.grading.extraction import Extract, gold_answers, last_boxed
from padd_stages.lib.grading.gold import Gold
from padd_stages.lib.options.shared import DEFAULT_SYSTEM

FOLDER_VARIABLE = "PADD_DATA"
SUFFIXES = (".yaml", ".yml")


class _YamlModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Protocol(_YamlModel):
    """Protocol of sampling and answer extraction; by default as in Dr. GRPO (docs/METHOD.md, section 6).

    ``samples`` come at ``temperature`` and ``top_p``, beside the greedy response or instead of it.
    """

    greedy: bool = True
    samples: int = Field(default=0, ge=0)
    temperature: float = Field(default=0.6, gt=0)
    top_p: float = Field(default=0.95, gt=0, le=1)
    max_new_tokens: int = Field(default=3000, ge=1)
    system: str = DEFAULT_SYSTEM
    extract: Extract = "boxed"


class Source(_YamlModel):
    """A data set (hub name as in ``--problems``, or a file) and its columns.

    ``marked_by`` says what the answer stands in, where its column holds a whole solution: the last ``\\boxed{}``, or
    what follows the last ``####``.
    """

    data: str
    problem: str = "problem"
    answer: str = "answer"
    subject: str = "subject"
    level: str = "level"
    marked_by: Literal["boxed", "####"] | None = None


class Grading(_YamlModel):
    """Columns with more about a gold answer, as in OlympiadBench (:class:`~padd_stages.lib.grading.gold.Gold`)."""

    tolerance: str | None = None
    several: str | None = None
    unit: str | None = None


class Benchmark(_YamlModel):
    """One benchmark; ``local`` is its file inside ``--benchmark-dir``, where there is one."""

    title: str
    hub: Source
    local: Source | None = None
    protocol: Protocol = Protocol()
    grading: Grading = Grading()

    def gold(self, row: dict[str, Any]) -> Gold:
        """Return the gold answer of one of :func:`read_benchmark`'s rows.

        Raises:
            PaddError: no answer in it, or a tolerance that is no number.
        """

        def value(column: str | None) -> Any:
            return row["extra"].get(column) if column is not None else None

        tolerance = value(self.grading.tolerance)
        try:
            allowed = None if tolerance is None else float(tolerance)
        except ValueError as error:
            raise PaddError(
                f"the tolerance of problem {row['id']} of {self.title} is {tolerance!r}, which is no number, so its "
                f"answers cannot be graded; mend column '{self.grading.tolerance}'."
            ) from error
        return Gold(
            answers=gold_answers(row["answer"]),
            tolerance=allowed,
            several=bool(value(self.grading.several)),
            unit=value(self.grading.unit),
        )


@dataclass(frozen=True, eq=False)
class ProblemSet:
    """Problems to evaluate on, under one name.

    Attributes:
        rows: with ``id``, ``problem``, ``answer``, ``subject`` and ``level`` (text or None).
        golds: what each row is graded against.
    """

    name: str
    rows: list[dict[str, Any]]
    golds: list[Any]
    protocol: Protocol
    parent: Parent

    def first(self, limit: int | None) -> "ProblemSet":
        """Return the set of the first ``limit`` problems."""
        return replace(self, rows=self.rows[:limit], golds=self.golds[:limit])


def benchmark_names() -> list[str]:
    """Return the names of the benchmarks that padd describes."""
    return sorted(Path(entry.name).stem for entry in _descriptions().iterdir())


def load_benchmark(name_or_path: str) -> Benchmark:
    """Read a description by name, or from a YAML file of one's own.

    Raises:
        UsageError: neither; not YAML; a key or a value that is not allowed.
    """
    if name_or_path in benchmark_names():
        text = (_descriptions() / f"{name_or_path}.yaml").read_text(encoding="utf-8")
    elif name_or_path.endswith(SUFFIXES) and Path(name_or_path).is_file():
        text = Path(name_or_path).read_text(encoding="utf-8")
    else:
        raise UsageError(
            f"'{name_or_path}' is neither a benchmark nor a YAML file that describes one, so there is nothing to ask; "
            f"the benchmarks are {', '.join(benchmark_names())}, and --problems takes any file or hub data set."
        )
    try:
        return Benchmark.model_validate(yaml.safe_load(text))
    except (yaml.YAMLError, ValidationError) as error:
        raise UsageError(
            f"{name_or_path} does not describe a benchmark ({_first_problem(error)}), so it cannot be read; mend it."
        ) from error


def read_benchmark(name_or_path: str, folder: Path | None = None) -> ProblemSet:
    """Read the problems of a benchmark: from ``folder`` (else from that of PADD_DATA), else from the hub.

    Raises:
        UsageError: no such benchmark.
        PaddError: the folder does not hold it, or the hub cannot be reached.
    """
    benchmark = load_benchmark(name_or_path)
    name = Path(name_or_path).stem if name_or_path.endswith(SUFFIXES) else name_or_path
    source = _source(name, benchmark, folder)
    try:
        rows = problem_rows(source)
    except UsageError:
        raise
    except PaddError as error:
        if source is not benchmark.hub or benchmark.local is None:
            raise
        raise PaddError(
            f"benchmark '{name}' could not be read as hub data set {source.data} "
            f"({first_line(error.__cause__ or error)}), so there is nothing to ask; go online, or name a folder that "
            f"holds {benchmark.local.data} with --benchmark-dir or {FOLDER_VARIABLE}."
        ) from error
    content = {"benchmark": benchmark.model_dump(include={"protocol", "grading"}), "rows": rows}
    digest = hashlib.sha256(canonical_json(content).encode()).hexdigest()
    parent = Parent(kind="benchmark", digest=digest, path=source.data)
    return ProblemSet(name, rows, [benchmark.gold(row) for row in rows], benchmark.protocol, parent)


def _source(name: str, benchmark: Benchmark, folder: Path | None) -> Source:
    named = str(folder) if folder is not None else os.environ.get(FOLDER_VARIABLE)
    if not named or benchmark.local is None:
        return benchmark.hub
    path = Path(named) / benchmark.local.data
    if not path.is_file():
        raise PaddError(
            f"{path} does not exist, so benchmark '{name}' cannot be read; put the file there, or leave "
            f"--benchmark-dir and {FOLDER_VARIABLE} out to read hub data set {benchmark.hub.data}."
        )
    return benchmark.local.model_copy(update={"data": str(path)})


def problem_rows(source: Source) -> list[dict[str, Any]]:
    """Read the usable rows of a source, as :func:`.load_problems` gives them, with ``level``."""
    rows = load_problems(
        source.data,
        problem_column=source.problem,
        answer_column=source.answer,
        subject_column=source.subject,
    )
    return [
        row | {"answer": _marked(row["answer"], source.marked_by), "level": level_of(row, source.level)}
        for row in rows
    ]


def level_of(row: dict[str, Any], column: str = "level") -> str | None:
    """Return the difficulty label of a problem, as text."""
    level = row.get("extra", {}).get(column)
    return None if level is None else str(level)


def _marked(answer: Any, mark: str | None) -> Any:
    if mark is None:
        return answer
    return (last_boxed(answer) if mark == "boxed" else answer.rpartition(mark)[2].strip()) or ""


def _descriptions() -> Traversable:
    return resources.files("padd_stages.evaluate") / "benchmarks"


def _first_problem(error: yaml.YAMLError | ValidationError) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return first_line(error)
