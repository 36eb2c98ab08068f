"""Worked solutions sampled from the teacher, as many as the warmup reads, each kept on disk once it is graded."""

from collections.abc import Callable
from typing import Any

from padd_artifacts.writer import ArtifactWriter
from padd_stages.lib.data.prompts import prompt_ids
from padd_stages.lib.grading.grader import Grader
from padd_stages.lib.models.teacher import Teacher
from padd_stages.lib.options.shared import SHARD
from padd_stages.lib.runtime.journal import Journal
from padd_stages.lib.runtime.processes import Processes
from padd_stages.lib.runtime.reporter import Reporter
from padd_stages.lib.runtime.seeds import generator_for
from padd_stages.lib.sampling.responses import Engine, Request, Sampling, respond
from padd_stages.warmup.options import WarmupOptions

JOURNAL = "teacher_solutions.jsonl"
ROWS_AT_ONCE = 256  # chosen: rows that a kill may cost, and a batch of generation that fills a GPU

Row = dict[str, Any]


def teacher_solutions(
    rows: list[Row],
    fits: Callable[[Row], bool],
    wanted: int,
    teacher: Teacher,
    grader: Grader,
    writer: ArtifactWriter,
    processes: Processes,
    options: WarmupOptions,
    reporter: Reporter,
    engine: Engine | None = None,
) -> list[Row]:
    """Sample one solution a row, in a drawn order, until ``wanted`` rows have a right one that fits.

    Args:
        fits: whether a row with its solution is short enough to be trained on.
        engine: serves the teacher, and samples in its place.

    Returns:
        The rows that have one, in the order of ``rows``; fewer than wanted if there are no more.
    """
    order = generator_for(options.seed, "warmup-text").permutation(len(rows)).tolist()
    chunks = [order[start : start + ROWS_AT_ONCE] for start in range(0, len(order), ROWS_AT_ONCE)]
    journal = Journal(writer.path(JOURNAL)) if processes.is_main else None
    known: list[list[str | None]] = processes.gather(journal.values if journal else [])[0]
    found: dict[int, Row] = {}
    reporter.phase("the teacher's solutions", wanted)
    for number, chunk in enumerate(chunks):
        if len(found) >= wanted:
            break
        if number < len(known):
            solutions = known[number]
        else:
            solutions = _solve([rows[i] for i in chunk], teacher, grader, processes, options, engine)
            if journal is not None:
                journal.add(solutions)
                writer.keep()
        solved = {
            place: rows[place] | {"solution": text}
            for place, text in zip(chunk, solutions, strict=True)
            if text is not None
        }
        fitting = {place: row for place, row in solved.items() if fits(row)}
        found |= fitting
        reporter.advance(min(len(fitting), wanted - len(found) + len(fitting)))
    return [found[place] for place in sorted(found)]


def _solve(
    rows: list[Row],
    teacher: Teacher,
    grader: Grader,
    processes: Processes,
    options: WarmupOptions,
    engine: Engine | None,
) -> list[str | None]:
    """Sample and grade on all processes; None where the response is wrong or truncated."""
    own, model = processes.deal(rows), teacher.language_model
    prompts = [
        prompt_ids(model.tokenizer, row["problem"], system=options.system, thinking=False) for row in own
    ]
    responses = respond(
        teacher.policy,
        model,
        [
            Request(tuple(prompt), (options.seed, "warmup-text", str(row["id"])))
            for prompt, row in zip(prompts, own, strict=True)
        ],
        Sampling(options.max_new_tokens),
        batch_tokens=options.generation_batch_tokens,
        any_working=processes.any if options.teacher_device == SHARD else None,
        engine=engine,
    )
    texts = [model.tokenizer.decode(r.token_ids, skip_special_tokens=True) for r in responses]
    verdicts = grader.grade([(text, row["answer"]) for text, row in zip(texts, own, strict=True)])
    return processes.collect(
        [
            text if verdict.correct and not response.truncated else None
            for text, verdict, response in zip(texts, verdicts, responses, strict=True)
        ]
    )
