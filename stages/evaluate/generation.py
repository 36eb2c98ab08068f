"""Generation of the responses of an evaluation: benchmarks with the same sampling share their batches."""

from collections import defaultdict
from collections.abc import Mapping

from padd_artifacts.writer import ArtifactWriter
from padd_stages.evaluate.journal import Journal
from padd_stages.evaluate.options import EvaluateOptions
from padd_stages.evaluate.tasks import Answer, Task
from padd_stages.lib.data.prompts import prompt_ids
from padd_stages.lib.models.loading import LanguageModel
from padd_stages.lib.models.policy import Policy
from padd_stages.lib.runtime.processes import Processes
from padd_stages.lib.runtime.reporter import Reporter
from padd_stages.lib.sampling.responses import Engine, Request, Response, Sampling, respond


def generate_answers(
    policy: Policy,
    model: LanguageModel,
    tasks: list[Task],
    options: EvaluateOptions,
    journal: Journal,
    writer: ArtifactWriter,
    processes: Processes,
    reporter: Reporter,
    engine: Engine | None = None,
) -> list[Answer]:
    """Sample the responses that no journal holds yet, each process those to its share of the problems.

    Args:
        writer: kept, for a later run to go on from, once there is something to go on from.
        engine: serves the model, and samples in its place.

    Returns:
        An answer a task, in order.
    """
    reporter.phase("responses", len(tasks))
    if journal.answers:
        reporter.advance(len(journal.answers))
        reporter.note(f"{len(journal.answers)} of {len(tasks)} responses are there from the interrupted run")
    if processes.is_main and processes.world > 1:
        writer.keep()  # another process may be the first that has something to go on from
    own = set(processes.deal(list(dict.fromkeys(_problem(task) for task in tasks))))
    groups: dict[Sampling, list[int]] = defaultdict(list)
    for position, task in enumerate(tasks):
        groups[_sampling(task)].append(position)

    def arrived(batch: Mapping[int, Response]) -> None:
        journal.add({position: _answer(model, response) for position, response in batch.items()})
        if processes.is_main:
            writer.keep()
        reporter.advance(len(batch) * processes.world)  # the others have about as many

    for sampling, positions in groups.items():
        requests = _requests(model, [tasks[position] for position in positions], options)
        _check_length(model, requests, sampling, reporter)
        left = [
            index
            for index, position in enumerate(positions)
            if position not in journal.answers and _problem(tasks[position]) in own
        ]
        respond(
            policy,
            model,
            [requests[index] for index in left],
            sampling,
            batch_tokens=options.generation_batch_tokens,
            on_batch=lambda batch, responses, of=[positions[index] for index in left]: arrived(
                {of[index]: response for index, response in zip(batch, responses, strict=True)}
            ),
            any_working=processes.any if processes.shards else None,
            engine=engine,
        )
    answers = {position: a for part in processes.gather(journal.answers) for position, a in part.items()}
    return [answers[position] for position in range(len(tasks))]


def _problem(task: Task) -> tuple[str, int]:
    """Return what a process gets as a whole: a prompt is computed once for all of its samples."""
    return task.problems.name, task.index


def _answer(model: LanguageModel, response: Response) -> Answer:
    text = model.tokenizer.decode(response.token_ids, skip_special_tokens=True)
    return Answer(text, len(response.token_ids), response.truncated)


def _sampling(task: Task) -> Sampling:
    protocol = task.problems.protocol
    if task.mode == "greedy":
        return Sampling(protocol.max_new_tokens, 0.0, 1.0)
    return Sampling(protocol.max_new_tokens, protocol.temperature, protocol.top_p)


def _requests(model: LanguageModel, tasks: list[Task], options: EvaluateOptions) -> list[Request]:
    prompts: dict[tuple[str, int], tuple[int, ...]] = {}
    requests = []
    for task in tasks:
        key = _problem(task)
        if key not in prompts:
            prompts[key] = tuple(
                prompt_ids(
                    model.tokenizer,
                    task.row["problem"],
                    system=task.problems.protocol.system,
                    thinking=options.thinking,
                    template=options.prompt_template,
                )
            )
        requests.append(Request(prompts[key], (options.seed, str(task.row["id"]), task.sample)))
    return requests


def _check_length(
    model: LanguageModel, requests: list[Request], sampling: Sampling, reporter: Reporter
) -> None:
    longest = max(len(request.prompt_ids) for request in requests)
    if longest + sampling.max_new_tokens > model.max_positions:
        reporter.warn(
            f"the longest prompt ({longest} tokens) and --max-new-tokens {sampling.max_new_tokens} are more than "
            f"the {model.max_positions} positions that the model was made for, so the ends of long responses "
            "may be nonsense; lower --max-new-tokens."
        )
