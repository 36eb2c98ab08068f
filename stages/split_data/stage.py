"""``split-data``: problems into four subsets that do not overlap (docs/METHOD.md, section 1)."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from padd_artifacts.artifact import Artifact
from padd_artifacts.errors import PaddError, UsageError
from padd_artifacts.manifest import file_parent
from padd_artifacts.plan import Plan
from padd_artifacts.writer import ArtifactWriter, Output
from padd_stages.lib.data.problems import Problems, Row, read_problems, read_records, source_parent, text_id
from padd_stages.lib.data.subdomains import SUBDOMAINS, classify
from padd_stages.lib.runtime.reporter import SILENT, Reporter
from padd_stages.split_data.contamination import decontaminate
from padd_stages.split_data.options import SplitInputs, SplitOptions
from padd_stages.split_data.subsets import SUBSETS, assign, check_ratios, deduplicate

KIND = "split"


def plan(inputs: SplitInputs, options: SplitOptions) -> Plan:
    """Read and check the inputs; ``sizes`` has rows and benchmark problems.

    Raises:
        UsageError: ratios that do not add up to 1, a column that no row has.
        PaddError: a source that is missing, empty or broken.
    """
    return _prepare(inputs, options)[0]


def run(inputs: SplitInputs, options: SplitOptions, output: Output, reporter: Reporter = SILENT) -> Artifact:
    """Write a.jsonl, b.jsonl, c.jsonl, d.jsonl and report.json.

    Raises:
        PaddError: as :func:`plan`; ids that two problems share; nothing left to split.
    """
    output.check()
    reporter.phase("reading problems")
    resolved, problems, benchmarks = _prepare(inputs, options)
    output.check(resolved)
    unique, duplicates = deduplicate(problems.rows)
    clean, contaminated = decontaminate(unique, benchmarks, options.contamination_threshold)
    _check_rows(inputs.problems, clean)
    reporter.phase("labelling subdomains", total=len(clean))
    rows: list[Row] = []
    for row in clean:
        rows.append(_labelled(row))
        reporter.advance()
    placed = assign(
        [row["problem"] for row in rows], options.ratios, options.seed, exact=options.exact_counts
    )
    subsets = {
        name: [row for row, place in zip(rows, placed, strict=True) if place == name] for name in SUBSETS
    }
    for name, ratio in zip(SUBSETS, options.ratios, strict=True):
        if ratio > 0 and not subsets[name]:
            reporter.warn(
                f"subset {name.upper()} is empty: {len(rows)} problems are too few for a share of {ratio:g}; "
                "add problems, raise its ratio or use --exact-counts"
            )
    report = {
        "rows_read": len(problems.rows) + problems.no_problem + problems.no_answer,
        "dropped": {"no_problem": problems.no_problem, "no_answer": problems.no_answer},
        "duplicates": [asdict(duplicate) for duplicate in duplicates],
        "duplicates_with_another_answer": sum(not duplicate.same_answer for duplicate in duplicates),
        "benchmarks": {name: len(known) for name, known in benchmarks.items()},
        "contaminated": [asdict(found) for found in contaminated],
        "problems": len(rows),
        "counts": {name: len(subsets[name]) for name in SUBSETS},
        "shares": {name: len(subsets[name]) / len(rows) for name in SUBSETS},
        "subdomains": {name: _subdomain_counts(subsets[name]) for name in SUBSETS},
    }
    with ArtifactWriter(output, resolved) as writer:
        for name in SUBSETS:
            writer.write_jsonl(f"{name}.jsonl", subsets[name])
        writer.write_json("report.json", report)
        writer.summary.update(
            problems=len(rows),
            **{name: len(subsets[name]) for name in SUBSETS},
            dropped=problems.no_problem + problems.no_answer,
            duplicates=len(duplicates),
            contaminated=len(unique) - len(clean),
            resembling=len({found.id for found in contaminated}) - (len(unique) - len(clean)),
        )
    return writer.artifact


def _prepare(inputs: SplitInputs, options: SplitOptions) -> tuple[Plan, Problems, dict[str, list[Row]]]:
    check_ratios(options.ratios)
    problems = read_problems(
        inputs.problems,
        problem_column=options.problem_column,
        answer_column=options.answer_column,
        solution_column=options.solution_column,
        subject_column=options.subject_column,
    )
    benchmarks = _benchmarks(inputs.benchmarks, options.problem_column)
    parents = {"problems": source_parent(inputs.problems, problems.rows)}
    for index, path in enumerate(inputs.benchmarks):
        parents[f"benchmark.{index}"] = file_parent(path)
    sizes = {
        "problems": len(problems.rows),
        "rows dropped": problems.no_problem + problems.no_answer,
        "benchmark problems": sum(len(rows) for rows in benchmarks.values()),
    }
    return Plan(KIND, options, parents, sizes), problems, benchmarks


def _benchmarks(paths: list[Path], problem_column: str) -> dict[str, list[Row]]:
    """Read benchmarks by the names of their files, not by their paths, which must not reach the digest."""
    benchmarks: dict[str, list[Row]] = {}
    for path in paths:
        if path.stem in benchmarks:
            raise UsageError(
                f"two benchmark files are named '{path.stem}', so the report could not tell them apart; rename one."
            )
        benchmarks[path.stem] = _benchmark(path, problem_column)
    return benchmarks


def _benchmark(path: Path, problem_column: str) -> list[Row]:
    """Read ids and problems of a benchmark file, under the data's column name or under ``problem``."""
    rows = [
        {"id": str(record.get("id") or text_id(text)), "problem": text}
        for record in read_records(str(path))
        if isinstance(text := record.get(problem_column) or record.get("problem"), str) and text.strip()
    ]
    if not rows:
        raise PaddError(
            f"no row of the benchmark {path} has a column '{problem_column}' or 'problem', so nothing can be compared "
            "with it; rename its column."
        )
    return rows


def _check_rows(source: str, rows: list[Row]) -> None:
    if not rows:
        raise PaddError(
            f"no problem of {source} is left after dropping incomplete rows and benchmark problems, "
            "so there is nothing to split; give more data."
        )
    repeated = [identity for identity, count in Counter(row["id"] for row in rows).items() if count > 1]
    if repeated:
        raise PaddError(
            f"{len(repeated)} ids of {source} stand for several problems ('{repeated[0]}' is one), so results could "
            "not be told apart; make the ids unique, or leave the column 'id' out."
        )


def _labelled(row: Row) -> dict[str, Any]:
    return {
        "id": row["id"],
        "problem": row["problem"],
        "answer": row["answer"],
        "solution": row["solution"],
        "subdomain": classify(row["problem"], row["subject"]),
        "extra": row["extra"],
    }


def _subdomain_counts(rows: list[Row]) -> dict[str, int]:
    counts = Counter(row["subdomain"] for row in rows)
    return {name: counts[name] for name in SUBDOMAINS}
