"""Measurement of a student on held-out rows: loss, accuracy, routing and similarity of its experts.

Under the student's own top-K routing and under uniform routing (docs/METHOD.md, sections 3 and 8). Tokens are the
response tokens, each where the student predicts it.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from padd_stages.lib.data.sequences import TokenBatch, collate, micro_batches
from padd_stages.lib.data.subdomains import SUBDOMAINS
from padd_stages.lib.grading.grader import Grader
from padd_stages.lib.measures.correlation import CorrelationSums
from padd_stages.lib.measures.load import expert_load
from padd_stages.lib.measures.routing import RoutingCounter, RoutingSums
from padd_stages.lib.measures.specialisation import baseline, json_number, nmi, shuffled_problems
from padd_stages.lib.models.expert_clusters import ExpertClusters
from padd_stages.lib.models.loading import LanguageModel
from padd_stages.lib.models.moe_adapter import MoEAdapter
from padd_stages.lib.models.policy import Policy, token_logprobs
from padd_stages.lib.models.teacher import Teacher, TeacherStates
from padd_stages.lib.models.trace import RouterTrace
from padd_stages.lib.models.trained import many_forwards
from padd_stages.lib.runtime.processes import Processes
from padd_stages.lib.sampling.responses import Request, Sampling, respond
from padd_stages.warmup.options import WarmupOptions
from padd_stages.warmup.texts import WarmupItem

ROUTINGS = {"topk": 0.0, "uniform": 1.0}  # share of uniform routing in the forward
NMI_SHUFFLES = 100  # chosen: as many as analyze-experts takes by default


@dataclass
class HeldOut:
    """Measurement on the same held-out rows before and after warmup; the teacher's clusters stay the same."""

    policy: Policy
    student: LanguageModel
    teacher: Teacher
    clusters: ExpertClusters
    items: list[WarmupItem]
    grader: Grader
    processes: Processes
    options: WarmupOptions

    def report(self) -> dict[str, dict[str, float | None]]:
        """Return numbers under ``topk`` and ``uniform`` routing; undefined ones are None.

        loss: mean next-token cross-entropy of the solutions' tokens, nats; accuracy: of one greedy response a row,
        not measured under uniform routing where warmup's is top-K; then the numbers of :func:`routing_numbers` and
        :meth:`_Sums.report`.
        """
        assert self.student.adapter is not None
        with many_forwards(self.policy, self.processes):
            sums = self._run(self.student.adapter)
            accuracy = {"topk": self._greedy_accuracy(), "uniform": None}
            if self.options.warmup_routing != "topk":
                with self.student.adapter.uniform():
                    accuracy["uniform"] = self._greedy_accuracy()
        report: dict[str, dict[str, float | None]] = {}
        for routing in ROUTINGS:
            numbers = sums[routing].report(self.options.seed)
            report[routing] = {"loss": numbers.pop("loss"), "accuracy": accuracy[routing], **numbers}
        return report

    @torch.no_grad()
    def _run(self, adapter: MoEAdapter) -> dict[str, "_Sums"]:
        """Run one forward of the teacher a batch, and one of the student a routing; every process runs all rows."""
        labels = [SUBDOMAINS.index(item.row["subdomain"]) for item in self.items]
        sums = {routing: _Sums(labels, adapter) for routing in ROUTINGS}
        lengths = [len(item.sequence) for item in self.items]
        for members in micro_batches(lengths, self.options.micro_batch_tokens):
            items = [self.items[i] for i in members]
            sequences = [item.sequence for item in items]
            batch = collate(sequences, self.student.pad_id, self.processes.device)
            states = self.teacher.states(sequences, [item.teacher_prompt for item in items], self.clusters)
            for routing, mix in ROUTINGS.items():
                # A mix of 0 is top-K routing that runs the other experts too, with weight 0.
                with adapter.uniform(mix), adapter.trace(activations=True) as trace:
                    logprobs = self.policy(
                        batch.input_ids,
                        batch.attention_mask,
                        batch.select,
                        lambda hidden, head, batch=batch: token_logprobs(hidden, head, batch, 1.0)[0],
                    )
                sums[routing].add(members, batch, logprobs, trace, states)
        return sums

    def _greedy_accuracy(self) -> float:
        """Compute the share of problems whose one greedy response is right."""
        student, options = self.student, self.options
        items = self.processes.deal(self.items)
        responses = respond(
            self.policy,
            student,
            [Request(item.sequence.prompt_ids, ()) for item in items],
            Sampling(options.max_new_tokens, temperature=0.0),
            batch_tokens=options.generation_batch_tokens,
            any_working=self.processes.any if self.processes.shards else None,
        )
        texts = [student.tokenizer.decode(r.token_ids, skip_special_tokens=True) for r in responses]
        verdicts = self.grader.grade(
            [(text, item.row["answer"]) for text, item in zip(texts, items, strict=True)]
        )
        right = [v.correct and not r.truncated for v, r in zip(verdicts, responses, strict=True)]
        right = self.processes.collect(right)
        return sum(right) / len(right)


class _Sums:
    """Sums over the tokens of all batches under one routing; no token is kept."""

    def __init__(self, labels: list[int], adapter: MoEAdapter) -> None:
        layers, experts = adapter.num_layers, adapter.num_experts
        self.routing = RoutingCounter(labels, len(SUBDOMAINS), layers, experts)
        self.between = [CorrelationSums(experts) for _ in range(layers)]  # expert and expert
        self.with_clusters = [CorrelationSums(experts) for _ in range(layers)]  # cluster and expert
        self.loss, self.tokens = 0.0, 0

    def add(
        self,
        members: list[int],
        batch: TokenBatch,
        logprobs: Tensor,
        trace: RouterTrace,
        states: TeacherStates,
    ) -> None:
        """Add a batch: logprobs (M,), the trace of its forward, the teacher's states on the same tokens."""
        assert states.activations is not None
        where = batch.select.flatten()
        self.loss -= float(logprobs.sum())
        self.tokens += logprobs.numel()
        self.routing.add(members, batch.rows.cpu(), trace.indices[:, where], trace.probs[:, where])
        for m, activations in enumerate(trace.activations[:, where].cpu()):  # (M, N)
            self.between[m].add(activations, activations)
            self.with_clusters[m].add(states.activations[m], activations[states.comparable.cpu()])

    def report(self, seed: int) -> dict[str, float | None]:
        """Compute loss, :func:`routing_numbers`, and means over layers of Pearson correlations over tokens.

        expert_correlation: mean absolute correlation of two experts' mean absolute activations, over the pairs; high
            where experts do the same thing. cluster_alignment: mean correlation of an expert's activation with that
            of the teacher cluster it comes from; 1 is a copy.
        """
        correlations = np.stack([sums.correlation() for sums in self.between])  # (L, N, N)
        alignment = np.stack([np.diag(sums.correlation()) for sums in self.with_clusters])  # (L, N)
        measured = self.with_clusters[0].count > 1
        return {
            "loss": self.loss / max(self.tokens, 1),
            **routing_numbers(self.routing.sums(), seed=seed),
            "expert_correlation": mean_between_experts(correlations) if self.tokens > 1 else None,
            "cluster_alignment": float(alignment.mean()) if measured else None,
        }


def routing_numbers(sums: RoutingSums, *, seed: int) -> dict[str, float | None]:
    """Compute measures of the router's choices (docs/METHOD.md, section 8), means over layers.

    routing_entropy: of a token's router probabilities, over ln N. Of the shares f_j of routed slots: load_entropy,
    over ln N; max_vio, max N f_j - 1; dead_experts, those without a token, all layers together. nmi: of expert and
    subdomain; nmi_chance: the upper end of its 95 % interval with the problems' labels shuffled; both None where
    all problems are of one subdomain.
    """
    joint = sums.joint
    shuffled = shuffled_problems(sums.slots, sums.labels, len(sums.tokens), draws=NMI_SHUFFLES, seed=seed)
    load = expert_load(joint.sum(axis=-1))
    return {
        "routing_entropy": float(sums.mean_entropy.mean()),
        "load_entropy": float(load.entropy.mean()),
        "max_vio": float(load.max_vio.mean()),
        "dead_experts": int(load.dead.sum()),
        "nmi": json_number(float(nmi(joint).mean())),
        "nmi_chance": json_number(baseline(nmi(shuffled).mean(axis=1)).high),
    }


def mean_between_experts(correlations: NDArray[np.float64]) -> float:
    """Compute the mean absolute value off the diagonals of (L, N, N)."""
    experts = correlations.shape[-1]
    beside = ~np.eye(experts, dtype=bool)
    return float(np.abs(correlations[:, beside]).mean())
