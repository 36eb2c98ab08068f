"""`padd eval`: Pass@1, avg@k, pass@k and maj@k on benchmarks, with bootstrap intervals (docs/METHOD.md, section 6).

torch is imported only where a model runs: grading another engine's responses does without.
"""

from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from padd_stages.evaluate.external_responses import read_responses
from padd_stages.evaluate.journal import Journal
from padd_stages.evaluate.options import EvaluateInputs, EvaluateOptions
from padd_stages.evaluate.tasks import Answer, Task, response_row, tasks_of
from padd_stages.lib.data.problems import source_parent
from padd_stages.lib.grading.grader import Grader, Verdict
from padd_stages.lib.runtime.launcher import process_count, sharding_requested
from padd_stages.lib.runtime.reporter import SILENT, Reporter

if TYPE_CHECKING:
    from padd_stages.lib.models.moe_adapter import MoEAdapter

GRADING_BATCH = 200  # chosen: between two signs of progress


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
    """Generate responses, grade them, write ``responses.jsonl`` and ``report.json``.

    With ``inputs.responses`` no model runs, and ``verdicts.jsonl`` holds the verdict on each row.
    """
    output.check()
    plan_, tasks, given = _prepare(inputs, options)
    if given is None:
        return _run_model(inputs, options, plan_, tasks, output, reporter)
    if process_count() > 1:
        raise UsageError("--responses are graded in one process; start `padd eval` without a launcher.")
    with ArtifactWriter(output, plan_) as writer:
        records = _write_result(tasks, given, {}, options, writer, reporter)
        writer.write_jsonl("verdicts.jsonl", (_verdict(each) for each in records))
    return writer.artifact


def _run_model(
    inputs: EvaluateInputs,
    options: EvaluateOptions,
    plan_: Plan,
    tasks: list[Task],
    output: Output,
    reporter: Reporter,
) -> Artifact:
    """Generate on all processes; grade and write in the first."""
    from padd_stages.evaluate.generation import generate_answers
    from padd_stages.lib.models.kernels import Kernels
    from padd_stages.lib.models.loading import parameter_counts
    from padd_stages.lib.models.trained import load_frozen
    from padd_stages.lib.runtime.processes import collective_forwards, start_processes
    from padd_stages.lib.sampling.vllm import engine_of

    with start_processes(options.device, shards=sharding_requested()) as processes:
        reporter = reporter if processes.is_main else SILENT
        with (
            ArtifactWriter(output, plan_, writes=processes.is_main) as writer,
            collective_forwards(),
        ):
            reporter.phase("loading the model")
            engine = engine_of(options, str(inputs.model))
            model, policy = load_frozen(
                str(inputs.model),
                processes,
                options.dtype,
                shards=processes.shards and engine is None,
                device=None if engine is None else "meta",  # its words and ends alone are needed
                kernels=Kernels.of(options),
            )
            if engine is not None and model.adapter is not None:
                _require_stock(model.adapter, inputs)
            journal = Journal(writer.folder, processes.rank)
            processes.barrier()  # all have read what an interrupted run has left
            writer.scratch |= {name for names in processes.gather(journal.names) for name in names}
            answers = generate_answers(
                policy, model, tasks, options, journal, writer, processes, reporter, engine
            )
            if processes.is_main:
                parameters: dict[str, Any] = {"parameters": parameter_counts(model)}
                if engine is not None:
                    parameters["engine"] = engine.identity["engine"]
                _write_result(tasks, answers, parameters, options, writer, reporter)
        processes.barrier()  # for the process that writes
    return writer.artifact


def _require_stock(adapter: "MoEAdapter", inputs: EvaluateInputs) -> None:
    """Refuse a student whose router bias or routes by words are padd's own, which no server knows."""
    if adapter.words is not None:
        raise PaddError(
            f"{inputs.model} routes by words (StableMoE), which an engine does not, so another model would answer; "
            "evaluate it with --engine transformers."
        )
    if bool(adapter.bias.any()):
        raise PaddError(
            f"{inputs.model} has a router bias that an engine does not know, so another model would answer; make a "
            "stock checkpoint with `padd export`, serve it and evaluate that."
        )


def _write_result(
    tasks: list[Task],
    answers: list[Answer],
    parameters: dict[str, Any],
    options: EvaluateOptions,
    writer: ArtifactWriter,
    reporter: Reporter,
) -> list[dict[str, Any]]:
    """Grade the answers, write them and the report, and return the rows of ``responses.jsonl``."""
    verdicts = _grade(tasks, answers, options, reporter)
    records = [response_row(*each) for each in zip(tasks, answers, verdicts, strict=True)]
    report = evaluation_report(tasks, records, seed=options.seed) | parameters
    writer.write_jsonl("responses.jsonl", records)
    writer.write_json("report.json", report)
    writer.summary.update(summary_of(report))
    return records


def _prepare(
    inputs: EvaluateInputs, options: EvaluateOptions
) -> tuple[Plan, list[Task], list[Answer] | None]:
    """Return the plan, the responses to grade, and the existing ones (None: the model is to generate them)."""
    _check(inputs)
    if inputs.responses is not None:
        tasks, given = read_responses(inputs.responses, _protocol(Protocol(), options), options.limit)
        sets = {"responses": tasks[0].problems}
        parents: dict[str, Parent] = {}
    else:
        from padd_stages.lib.models.loading import model_parent
        from padd_stages.lib.sampling.vllm import check_engine

        check_engine(options)
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
    """Read all problems, by the role that they have in the manifest."""
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
    """Override a benchmark's own protocol by the options that are set."""
    given = {name: getattr(options, name) for name in Protocol.model_fields}
    return protocol.model_copy(update={name: value for name, value in given.items() if value is not None})


def _from_problems(source: str, options: EvaluateOptions) -> ProblemSet:
    """Read a split artifact's D_D, or a file or hub data set."""
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


def _grade(
    tasks: list[Task], answers: list[Answer], options: EvaluateOptions, reporter: Reporter
) -> list[Verdict]:
    """Grade every task, in order; answers are extracted as each benchmark's protocol says."""
    reporter.phase("grading", len(tasks))
    verdicts: list[Verdict] = []
    with Grader(workers=options.workers, time_limit=options.grading_limit) as grader:
        for problems, group in groupby(zip(tasks, answers, strict=True), key=lambda pair: pair[0].problems):
            pairs = list(group)
            for start in range(0, len(pairs), GRADING_BATCH):
                part = pairs[start : start + GRADING_BATCH]
                verdicts += grader.grade(
                    [(answer.text, problems.golds[task.index]) for task, answer in part],
                    extract=problems.protocol.extract,
                    truncated=[answer.truncated for _, answer in part],
                )
                reporter.advance(len(part))
    return verdicts


def _verdict(record: dict[str, Any]) -> dict[str, Any]:
    """Return a row of ``verdicts.jsonl``, for programs that bring responses of their own."""
    names = {"id": "id", "extracted": "extracted", "verdict": "correct", "reason": "reason", "score": "score"}
    return {name: record[key] for name, key in names.items()}
