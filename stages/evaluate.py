"""`padd eval`: greedy Pass@1 and avg@k with bootstrap intervals (docs/METHOD.md, section 6)."""

from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from padd_artifacts.artifact import Artifact, open_artifact
from padd_artifacts.errors import PaddError
from padd_artifacts.manifest import Parent
from padd_artifacts.plan import Plan
from padd_artifacts.writer import ArtifactWriter, Output
from padd_stages.data.grading import Grader, Verdict
from padd_stages.data.problems import load_problems, source_parent
from padd_stages.data.prompts import prompt_ids
from padd_stages.models.loading import LanguageModel, load_model, model_parent, parameter_counts
from padd_stages.options.evaluate import EvaluateInputs, EvaluateOptions
from padd_stages.report.intervals import bootstrap_interval
from padd_stages.rollout.sampling import Request, Response, Sampling, sample
from padd_stages.runtime.devices import pick_device
from padd_stages.runtime.reporter import SILENT, Reporter


class _Task(NamedTuple):
    """One response to ask for: the problem's index, ``greedy`` or ``sampled``, the number of the sample."""

    problem: int
    mode: str
    number: int


def plan(inputs: EvaluateInputs, options: EvaluateOptions) -> Plan:
    """Open the model's configuration and the problems; count the responses to ask for."""
    rows, parent = _problems(inputs.problems, options)
    parents = {"model": model_parent(inputs.model), "problems": parent}
    per_problem = int(options.greedy) + options.samples
    if per_problem == 0:
        raise PaddError(
            "--no-greedy with --samples 0 asks for no response, so there is nothing to evaluate; set one."
        )
    return Plan("evaluation", options, parents, {"problems": len(rows), "responses": len(rows) * per_problem})


def run(
    inputs: EvaluateInputs, options: EvaluateOptions, output: Output, reporter: Reporter = SILENT
) -> Artifact:
    """Ask the model for responses, grade them, write ``responses.jsonl`` and ``report.json``."""
    output.check()
    plan_ = plan(inputs, options)
    rows, _ = _problems(inputs.problems, options)
    with ArtifactWriter(output, plan_) as writer:
        reporter.phase("loading the model")
        model = load_model(inputs.model, dtype=options.dtype, device=pick_device(options.device))
        tasks = _tasks(len(rows), options)
        responses = _respond(model, rows, tasks, options, reporter)
        texts = [model.tokenizer.decode(r.token_ids, skip_special_tokens=True) for r in responses]
        verdicts = _grade(rows, tasks, texts, options, reporter)
        writer.write_jsonl("responses.jsonl", _records(rows, tasks, texts, responses, verdicts))
        report = _report(rows, tasks, responses, verdicts, options)
        report["parameters"] = parameter_counts(model)
        writer.write_json("report.json", report)
        writer.summary.update(_summary(report))
    return writer.artifact


def _problems(source: str, options: EvaluateOptions) -> tuple[list[dict[str, Any]], Parent]:
    """Rows and parent of a split artifact's D_D or of a file."""
    path = Path(source)
    if path.is_dir():
        split = open_artifact(path, "split")
        rows, parent = split.jsonl("d.jsonl"), split.as_parent()
    else:
        rows = load_problems(
            source, problem_column=options.problem_column, answer_column=options.answer_column
        )
        parent = source_parent(source, rows)
    if not rows:
        raise PaddError(f"{source} holds no problem to evaluate on; give a larger data set or another split.")
    return rows[: options.limit], parent


def _tasks(count: int, options: EvaluateOptions) -> list[_Task]:
    tasks = [_Task(i, "greedy", 0) for i in range(count)] if options.greedy else []
    return tasks + [_Task(i, "sampled", k) for i in range(count) for k in range(options.samples)]


def _respond(
    model: LanguageModel,
    rows: list[dict[str, Any]],
    tasks: list[_Task],
    options: EvaluateOptions,
    reporter: Reporter,
) -> list[Response]:
    prompts = [
        tuple(prompt_ids(model.tokenizer, row["problem"], system=options.system, thinking=options.thinking))
        for row in rows
    ]
    reporter.phase("responses", len(tasks))
    responses: dict[int, Response] = {}
    for mode, temperature, top_p in (("greedy", 0.0, 1.0), ("sampled", options.temperature, options.top_p)):
        chosen = [index for index, task in enumerate(tasks) if task.mode == mode]
        if not chosen:
            continue
        produced = sample(
            model.model,
            [
                Request(
                    prompts[tasks[i].problem],
                    (options.seed, str(rows[tasks[i].problem]["id"]), tasks[i].number),
                )
                for i in chosen
            ],
            Sampling(options.max_new_tokens, temperature, top_p),
            eos_ids=model.eos_ids,
            pad_id=model.pad_id,
            batch_tokens=options.generation_batch_tokens,
            on_batch=lambda batch, _: reporter.advance(len(batch)),
        )
        responses.update(zip(chosen, produced, strict=True))
    return [responses[index] for index in range(len(tasks))]


def _grade(
    rows: list[dict[str, Any]],
    tasks: list[_Task],
    texts: list[str],
    options: EvaluateOptions,
    reporter: Reporter,
) -> list[Verdict]:
    reporter.phase("grading")
    pairs = [(text, rows[task.problem]["answer"]) for text, task in zip(texts, tasks, strict=True)]
    with Grader(workers=options.workers, time_limit=options.grading_limit) as grader:
        return grader.grade(pairs, extract=options.extract)


def _records(
    rows: list[dict[str, Any]],
    tasks: list[_Task],
    texts: list[str],
    responses: list[Response],
    verdicts: list[Verdict],
) -> list[dict[str, Any]]:
    return [
        {
            "id": rows[task.problem]["id"],
            "mode": task.mode,
            "sample": task.number,
            "problem": rows[task.problem]["problem"],
            "answer": rows[task.problem]["answer"],
            "response": text,
            "extracted": verdict.extracted,
            "correct": verdict.correct,
            "reason": verdict.reason,
            "tokens": len(response.token_ids),
            "truncated": response.truncated,
        }
        for task, text, response, verdict in zip(tasks, texts, responses, verdicts, strict=True)
    ]


def _report(
    rows: list[dict[str, Any]],
    tasks: list[_Task],
    responses: list[Response],
    verdicts: list[Verdict],
    options: EvaluateOptions,
) -> dict[str, Any]:
    """Accuracy, interval, per-subdomain accuracy, lengths and reasons for each way of asking."""
    report: dict[str, Any] = {"problems": len(rows)}
    for mode in ("greedy", "sampled"):
        chosen = [index for index, task in enumerate(tasks) if task.mode == mode]
        if not chosen:
            continue
        scores: dict[int, list[float]] = defaultdict(list)
        reasons: dict[str, int] = defaultdict(int)
        for index in chosen:
            # a response that was cut off counts as wrong whatever stands in it (docs/METHOD.md, section 4)
            correct = verdicts[index].correct and not responses[index].truncated
            scores[tasks[index].problem].append(float(correct))
            reasons[verdicts[index].reason] += 1
        means = np.array([np.mean(scores[problem]) for problem in range(len(rows))])
        low, high = bootstrap_interval(means, seed=options.seed)
        report[mode] = {
            "accuracy": float(means.mean()),
            "interval": [float(low), float(high)],
            "samples": max(len(values) for values in scores.values()),
            "pass_at_k": float(np.mean([max(scores[problem]) for problem in range(len(rows))])),
            "subdomains": _by_subdomain(rows, means),
            "reasons": dict(sorted(reasons.items())),
            "truncated": float(np.mean([responses[index].truncated for index in chosen])),
            "mean_tokens": float(np.mean([len(responses[index].token_ids) for index in chosen])),
        }
    return report


def _by_subdomain(rows: list[dict[str, Any]], means: np.ndarray) -> dict[str, dict[str, float]]:
    groups: dict[str, list[float]] = defaultdict(list)
    for row, mean in zip(rows, means, strict=True):
        groups[row.get("subdomain") or "unlabelled"].append(float(mean))
    return {name: {"accuracy": float(np.mean(v)), "problems": len(v)} for name, v in sorted(groups.items())}


def _summary(report: dict[str, Any]) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "problems": report["problems"],
        "active_parameters": report["parameters"]["active"],
    }
    for mode in ("greedy", "sampled"):
        if mode in report:
            low, high = report[mode]["interval"]
            summary |= {mode: report[mode]["accuracy"], f"{mode}_low": low, f"{mode}_high": high}
    return summary
