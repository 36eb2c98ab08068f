"""`padd eval`: Pass@1, avg@k, pass@k and maj@k on benchmarks, with bootstrap intervals (docs/METHOD.md, section 6).

What needs torch is imported where a model is asked: grading another engine's responses does without.
"""

from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from padd_artifacts.artifact import Artifact, open_artifact
from padd_artifacts.errors import PaddError, UsageError
from padd_artifacts.manifest import Parent
from padd_artifacts.plan import Plan
from padd_artifacts.writer import ArtifactWriter, Output
from padd_stages.evaluate.accuracy import evaluation_report, summary_of
from padd_stages.evaluate.benchmark import (
    ProblemSet,
    Protocol,
    Source,
    level_of,
    problem_rows,
    read_benchmark,
)
from padd_stages.evaluate.given_responses import read_responses
from padd_stages.evaluate.journal import Journal
from padd_stages.evaluate.options import EvaluateInputs, EvaluateOptions
from padd_stages.evaluate.tasks import Answer, Task, record, tasks_of
from padd_stages.lib.data.problems import source_parent
from padd_stages.lib.grading.grader import Grader, Verdict
from padd_stages.lib.runtime.reporter import SILENT, Reporter

JOURNAL = "journal.jsonl"
GRADED_AT_ONCE = 200  # chosen: between two signs of progress


def plan(inputs: EvaluateInputs, options: EvaluateOptions) -> Plan:
    """Open the model's configuration and the problems, or the responses; count them.

    Raises:
        UsageError: inputs that do not go together, or nothing to ask for.
        PaddError: one of them cannot be read.
    """
    return _prepare(inputs, options)[0]


def run(
    inputs: EvaluateInputs, options: EvaluateOptions, output: Output, reporter: Reporter = SILENT
) -> Artifact:
    """Ask the model for responses, grade them, write ``responses.jsonl`` and ``report.json``.

    With ``inputs.responses`` no model is asked, and ``verdicts.jsonl`` holds what was found of each row.
    """
    output.check()
    plan_, tasks, given = _prepare(inputs, options)
    with ArtifactWriter(output, plan_) as writer:
        parameters: dict[str, Any] = {}
        if given is None:
            answers, parameters = _ask(inputs, options, tasks, writer, reporter)
        else:
            answers = given
        verdicts = _grade(tasks, answers, options, reporter)
        records = [record(*each) for each in zip(tasks, answers, verdicts, strict=True)]
        report = evaluation_report(tasks, records, seed=options.seed) | parameters
        writer.write_jsonl("responses.jsonl", records)
        if given is not None:
            writer.write_jsonl("verdicts.jsonl", (_verdict(each) for each in records))
        writer.write_json("report.json", report)
        writer.summary.update(summary_of(report))
    return writer.artifact


def _prepare(
    inputs: EvaluateInputs, options: EvaluateOptions
) -> tuple[Plan, list[Task], list[Answer] | None]:
    """The plan, the responses to grade, and those that are there already (None: a model is to be asked)."""
    _check(inputs)
    if inputs.responses is not None:
        tasks, given = read_responses(inputs.responses, _protocol(Protocol(), options), options.limit)
        sets = {"responses": tasks[0].problems}
        parents: dict[str, Parent] = {}
    else:
        from padd_stages.lib.models.loading import model_parent

        sets, given = _problem_sets(inputs, options), None
        tasks = [task for problems in sets.values() for task in tasks_of(problems)]
        parents = {"model": model_parent(str(inputs.model))}
    parents |= {role: problems.parent for role, problems in sets.items()}
    sizes = {problems.name: len(problems.rows) for problems in sets.values()}
    return Plan("evaluation", options, parents, {"problems": sizes, "responses": len(tasks)}), tasks, given


def _check(inputs: EvaluateInputs) -> None:
    asked = {"--model": inputs.model, "--benchmark": inputs.benchmark, "--problems": inputs.problems}
    if inputs.responses is not None and any(asked.values()):
        named = " and ".join(flag for flag, value in asked.items() if value)
        raise UsageError(
            f"--responses are graded as they are, so {named} would be left out; give the one or the other."
        )
    if inputs.responses is None and inputs.model is None:
        raise UsageError(
            "neither --model nor --responses is given, so there is nothing to evaluate; give one."
        )
    if inputs.responses is None and not (inputs.benchmark or inputs.problems):
        raise UsageError(
            "neither --benchmark nor --problems is given, so there is nothing to ask the model; give at least one."
        )


def _problem_sets(inputs: EvaluateInputs, options: EvaluateOptions) -> dict[str, ProblemSet]:
    """All problems to ask, by the role that they have in the manifest."""
    found = {} if inputs.problems is None else {"problems": _from_problems(inputs.problems, options)}
    for name in inputs.benchmark:
        benchmark = read_benchmark(name, inputs.benchmark_dir)
        if benchmark.name in [other.name for other in found.values()]:
            raise UsageError(
                f"two sets of problems are named '{benchmark.name}', so the report could not tell them apart; "
                "leave one out or rename the file."
            )
        found[f"benchmark.{benchmark.name}"] = benchmark
    sets = {
        role: replace(problems, protocol=_protocol(problems.protocol, options)).first(options.limit)
        for role, problems in found.items()
    }
    for problems in sets.values():
        if not (problems.protocol.greedy or problems.protocol.samples):
            raise UsageError(
                f"--no-greedy and no --samples ask for no response to {problems.name}, so there is nothing to "
                "evaluate; set one."
            )
    return sets


def _protocol(protocol: Protocol, options: EvaluateOptions) -> Protocol:
    """A benchmark's own protocol under the options that are given."""
    given = {name: getattr(options, name) for name in Protocol.model_fields}
    return protocol.model_copy(update={name: value for name, value in given.items() if value is not None})


def _from_problems(source: str, options: EvaluateOptions) -> ProblemSet:
    """A split artifact's D_D, or a file or hub data set."""
    path = Path(source)
    if path.is_dir():
        split = open_artifact(path, "split")
        name, parent = "d", split.as_parent()
        rows = [
            row | {"subject": row["extra"].get("subject") or row["subdomain"], "level": level_of(row)}
            for row in split.jsonl("d.jsonl")
        ]
    else:
        rows = problem_rows(Source(data=source, problem=options.problem_column, answer=options.answer_column))
        # a hub data set is owner/name[/config][:split]
        name = path.stem if path.is_file() else source.partition(":")[0].split("/")[1]
        parent = source_parent(source, rows)
    if not rows:
        raise PaddError(f"{source} holds no problem to evaluate on; give a larger data set or another split.")
    return ProblemSet(name, rows, [row["answer"] for row in rows], Protocol(), parent)


def _ask(
    inputs: EvaluateInputs,
    options: EvaluateOptions,
    tasks: list[Task],
    writer: ArtifactWriter,
    reporter: Reporter,
) -> tuple[list[Answer], dict[str, Any]]:
    """The model's answers, and what the report says of its parameters."""
    from padd_stages.evaluate.generation import ask
    from padd_stages.lib.models.loading import load_model, parameter_counts
    from padd_stages.lib.runtime.devices import pick_device

    reporter.phase("loading the model")
    model = load_model(str(inputs.model), dtype=options.dtype, device=pick_device(options.device))
    writer.scratch.add(JOURNAL)
    journal = Journal(writer.path(JOURNAL))
    answers = ask(model, tasks, options, journal, writer.keep, reporter)
    return answers, {"parameters": parameter_counts(model)}


def _grade(
    tasks: list[Task], answers: list[Answer], options: EvaluateOptions, reporter: Reporter
) -> list[Verdict]:
    """A verdict a task, in order; each benchmark's answers are looked for where its protocol says."""
    reporter.phase("grading", len(tasks))
    verdicts: list[Verdict] = []
    with Grader(workers=options.workers, time_limit=options.grading_limit) as grader:
        for problems, group in groupby(zip(tasks, answers, strict=True), key=lambda pair: pair[0].problems):
            pairs = list(group)
            for start in range(0, len(pairs), GRADED_AT_ONCE):
                part = pairs[start : start + GRADED_AT_ONCE]
                verdicts += grader.grade(
                    [(answer.text, problems.golds[task.index]) for task, answer in part],
                    extract=problems.protocol.extract,
                    truncated=[answer.truncated for _, answer in part],
                )
                reporter.advance(len(part))
    return verdicts


def _verdict(record: dict[str, Any]) -> dict[str, Any]:
    """A row of ``verdicts.jsonl``, what programs read that bring responses of their own."""
    names = {"id": "id", "extracted": "extracted", "verdict": "correct", "reason": "reason", "score": "score"}
    return {name: record[key] for name, key in names.items()}
