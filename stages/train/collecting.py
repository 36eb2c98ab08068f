"""Rollouts as they are made: responses sampled and scored, groups that teach nothing replaced by others."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from padd_stages.lib.data.sequences import TokenSequence
from padd_stages.lib.models.loading import LanguageModel
from padd_stages.lib.models.policy import Policy
from padd_stages.lib.runtime.processes import Processes
from padd_stages.lib.sampling.responses import Request, Response, Sampling, respond
from padd_stages.train.engine import TrainEngine
from padd_stages.train.options import TrainOptions
from padd_stages.train.reward_functions import ACCURACY, Rewards, Scores
from padd_stages.train.rollout import (
    Prompt,
    Rollout,
    counted_rewards,
    length_metrics,
    reward_columns,
    score_metrics,
    score_tensor,
    scored_advantages,
)


@dataclass(frozen=True)
class _Sampled:
    """Responses in whole groups, in the order of their prompts, with their scores."""

    prompts: list[Prompt]
    responses: list[Response]
    texts: list[str]
    scores: dict[str, Scores]
    timeouts: int

    def __add__(self, other: "_Sampled") -> "_Sampled":
        return _Sampled(
            self.prompts + other.prompts,
            self.responses + other.responses,
            self.texts + other.texts,
            {name: values + other.scores[name] for name, values in self.scores.items()},
            self.timeouts + other.timeouts,
        )

    def groups(self, numbers: list[int], size: int) -> "_Sampled":
        """Return these groups of ``size`` responses alone."""
        places = [number * size + place for number in numbers for place in range(size)]
        return _Sampled(
            [self.prompts[i] for i in places],
            [self.responses[i] for i in places],
            [self.texts[i] for i in places],
            {name: [values[i] for i in places] for name, values in self.scores.items()},
            self.timeouts,
        )

    def rewards(self, rewards: Rewards, options: TrainOptions) -> Tensor:
        """Return what the rewards (B,) count."""
        return counted_rewards(
            score_tensor(rewards.total(self.scores)),
            truncated=torch.tensor([response.truncated for response in self.responses]),
            lengths=torch.tensor([len(response.token_ids) for response in self.responses]),
            options=options,
        )


class Collector:
    """Makes rollouts with the current student, each process its share of whole groups.

    From what all have sampled and scored, every one makes the same rollout.
    """

    def __init__(
        self,
        policy: Policy,
        student: LanguageModel,
        rewards: Rewards,
        options: TrainOptions,
        processes: Processes,
        engine: TrainEngine | None = None,
    ) -> None:
        self._policy, self._student, self._rewards = policy, student, rewards
        self._options, self._processes, self._engine = options, processes, engine

    def collect(self, draw: Callable[[], list[Prompt]], step: int) -> Rollout:
        """Sample n responses to each of the prompts that ``draw`` returns, score them, compute advantages.

        With --dynamic-sampling it draws on, so often at most, until enough groups have rewards that differ (DAPO, arXiv
        2503.14476); are there too few, the first of the others are taken too.
        """
        options, seen = self._options, Counter[str]()
        probe = {} if self._engine is None else self._engine.refresh(step)
        found = self._sample(draw(), step, seen)
        drawn = wanted = len(found.prompts) // options.num_generations
        for _ in range(options.dynamic_sampling):
            if len(self._teaching(found)) >= wanted:
                break
            found = found + self._sample(draw(), step, seen)
            drawn += wanted
        if options.dynamic_sampling:
            teaching = self._teaching(found)
            others = [number for number in range(drawn) if number not in set(teaching)]
            found = found.groups(sorted([*teaching, *others][:wanted]), options.num_generations)
            probe |= {"sampling/prompts_drawn": drawn}
        if self._engine is not None:
            self._engine.rest()
        return self._rollout(found, probe)

    def _teaching(self, found: _Sampled) -> list[int]:
        """Return the numbers of the groups with rewards that differ."""
        groups = found.rewards(self._rewards, self._options).view(-1, self._options.num_generations)
        known = [group[~group.isnan()] for group in groups]
        return [i for i, rewards in enumerate(known) if len(rewards) > 1 and rewards.max() > rewards.min()]

    def _sample(self, prompts: list[Prompt], step: int, seen: Counter[str]) -> _Sampled:
        """Sample and score a group of each prompt, the work shared among the processes."""
        options, processes = self._options, self._processes
        repeated = [prompt for prompt in prompts for _ in range(options.num_generations)]
        own = self._respond(processes.share(requests_of(repeated, options, step, seen)))
        # routes are large, and those of a response are used where it was sampled, unless groups are replaced
        sent = own if options.dynamic_sampling else [replace(response, routes=None) for response in own]
        parts = processes.gather(self._score(repeated, sent))
        responses = [response for part in parts for response in part.responses]
        for place, response in zip(processes.share(range(len(responses))), own, strict=True):
            responses[place] = response
        return _Sampled(
            repeated,
            responses,
            [text for part in parts for text in part.texts],
            {name: [score for part in parts for score in part.scores[name]] for name in parts[0].scores},
            sum(part.timeouts for part in parts),
        )

    def _respond(self, requests: list[Request]) -> list[Response]:
        options = self._options

        def work() -> list[Response]:
            return respond(
                self._policy,
                self._student,
                requests,
                Sampling(options.max_completion_length, options.temperature, options.top_p),
                batch_tokens=options.generation_batch_tokens,
                any_working=self._processes.any if self._processes.shards else None,
                with_logprobs=True,
                with_routes=options.router_replay == "rollout",
                engine=None if self._engine is None else self._engine.server,
            )

        return work() if self._engine is None else self._engine.agreed(work)

    def _score(self, repeated: list[Prompt], responses: list[Response]) -> _Sampled:
        """Score this process's share of the B responses to ``repeated`` prompts."""
        mine, grader = self._processes.share(repeated), self._rewards.grader
        timeouts = grader.timeouts
        texts = [self._student.tokenizer.decode(r.token_ids, skip_special_tokens=True) for r in responses]
        scores = self._rewards.score(
            texts,
            prompts=[prompt.row["problem"] for prompt in mine],
            completion_ids=[list(response.token_ids) for response in responses],
            truncated=[response.truncated for response in responses],
            **{name: self._processes.share(values) for name, values in reward_columns(repeated).items()},
        )
        return _Sampled(mine, responses, texts, scores, grader.timeouts - timeouts)

    def _rollout(self, found: _Sampled, metrics: dict[str, float]) -> Rollout:
        options, responses = self._options, found.responses
        rewards = found.rewards(self._rewards, options)
        correct = score_tensor(found.scores[ACCURACY]).nan_to_num(0.0)
        advantages, group_metrics = scored_advantages(
            rewards.view(-1, options.num_generations), options.scale_rewards
        )
        share = self._processes.share(range(len(responses)))
        routes = [responses[i].routes for i in share]
        return Rollout(
            prompts=found.prompts,
            share=share,
            sequences=[
                TokenSequence(prompt.student_ids, response.token_ids)
                for prompt, response in zip(found.prompts, responses, strict=True)
            ],
            texts=found.texts,
            truncated=[response.truncated for response in responses],
            sampler_logprobs=[response.logprobs for response in responses],
            scores=found.scores,
            rewards=rewards,
            correct=correct,
            advantages=advantages.flatten(),
            routes=[route for route in routes if route is not None],
            metrics=group_metrics
            | {"accuracy": float(correct.mean()), "grading/timeouts": found.timeouts}
            | metrics
            | score_metrics(found.scores)
            | length_metrics(responses),
        )


def requests_of(
    repeated: list[Prompt], options: TrainOptions, step: int, seen: Counter[str]
) -> list[Request]:
    """Return a request for each prompt, its randomness keyed by seed, step, problem and number of the sample.

    ``seen`` counts the samples of each problem: a small data set may hold one several times in a rollout.
    """
    requests = []
    for prompt in repeated:
        problem = str(prompt.row["id"])
        requests.append(Request(prompt.student_ids, (options.seed, step, problem, seen[problem])))
        seen[problem] += 1
    return requests
