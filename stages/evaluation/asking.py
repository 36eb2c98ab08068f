"""Asking a model for the responses of an evaluation: all benchmarks that are sampled alike share their batches."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from padd_stages.data.prompts import prompt_ids
from padd_stages.evaluation.journal import Journal
from padd_stages.evaluation.tasks import Answer, Task
from padd_stages.models.loading import LanguageModel
from padd_stages.options.evaluate import EvaluateOptions
from padd_stages.rollout.sampling import Request, Response, Sampling, sample
from padd_stages.runtime.reporter import Reporter

# Tokens that take as long to read as a step of decoding takes for a batch of any size: a step reads all weights. Chosen
# between CPUs (about 16 tokens) and GPUs (hundreds).
PADDING_PER_STEP = 32


def ask(
    model: LanguageModel,
    tasks: list[Task],
    options: EvaluateOptions,
    journal: Journal,
    keep: Callable[[], None],
    reporter: Reporter,
) -> list[Answer]:
    """Sample the responses that the journal does not hold yet.

    Args:
        keep: called once there is something for a later run to go on from.

    Returns:
        An answer a task, in order.
    """
    reporter.phase("responses", len(tasks))
    if journal.answers:
        reporter.advance(len(journal.answers))
        reporter.note(f"{len(journal.answers)} of {len(tasks)} responses are there from the interrupted run")
    groups: dict[Sampling, list[int]] = defaultdict(list)
    for position, task in enumerate(tasks):
        groups[_sampling(task)].append(position)

    def arrived(batch: Mapping[int, Response]) -> None:
        journal.add({position: _answer(model, response) for position, response in batch.items()})
        keep()
        reporter.advance(len(batch))

    for sampling, positions in groups.items():
        requests = _requests(model, [tasks[position] for position in positions], options)
        _check_length(model, requests, sampling, reporter)
        for group in of_like_length(requests, sampling.max_new_tokens):
            left = [index for index in group if positions[index] not in journal.answers]
            sample(
                model.model,
                [requests[index] for index in left],
                sampling,
                eos_ids=model.eos_ids,
                pad_id=model.pad_id,
                batch_tokens=options.generation_batch_tokens,
                on_batch=lambda batch, responses, of=[positions[index] for index in left]: arrived(
                    {of[index]: response for index, response in zip(batch, responses, strict=True)}
                ),
            )
    return [journal.answers[position] for position in range(len(tasks))]


def of_like_length(requests: Sequence[Request], max_new_tokens: int) -> list[list[int]]:
    """Indices of requests in groups that may share batches, the longest prompts first, samples of a prompt together.

    A batch is as wide as its longest prompt. A group ends where padding has come to cost what the steps of another
    batch would.
    """
    order = sorted(range(len(requests)), key=lambda index: -len(requests[index].prompt_ids))
    groups, padding = [order[:1]], 0
    for before, index in pairwise(order):
        prompt = requests[index].prompt_ids
        if prompt != requests[before].prompt_ids:  # a prompt is computed once for all of its samples
            padding += len(requests[groups[-1][0]].prompt_ids) - len(prompt)
        if padding > PADDING_PER_STEP * max_new_tokens:
            groups.append([])
            padding = 0
        groups[-1].append(index)
    return groups


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
        key = (task.problems.name, task.index)
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
    limit = getattr(model.model.config, "max_position_embeddings", None)
    longest = max(len(request.prompt_ids) for request in requests)
    if limit is not None and longest + sampling.max_new_tokens > limit:
        reporter.warn(
            f"the longest prompt ({longest} tokens) and --max-new-tokens {sampling.max_new_tokens} are more than the "
            f"{limit} positions that the model was made for, so the ends of long responses may be nonsense; "
            "lower --max-new-tokens."
        )
