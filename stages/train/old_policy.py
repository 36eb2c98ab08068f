"""Old-policy pass of a rollout, the baseline of ratios, drift, distillation and frequencies."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from padd_stages.lib.data.sequences import TokenBatch, collate, micro_batches
from padd_stages.lib.models.loading import LanguageModel
from padd_stages.lib.models.policy import Head, token_logprobs
from padd_stages.lib.models.teacher import Teacher, TeacherStates
from padd_stages.lib.objectives.correction import correction_metrics, correction_weights
from padd_stages.lib.runtime.processes import Processes
from padd_stages.lib.sampling.routes import batch_routes
from padd_stages.train.old_routing import TRACE_DTYPES, OldRouting, RoutingStore
from padd_stages.train.options import TrainOptions
from padd_stages.train.replay import ReplayCount
from padd_stages.train.rollout import Rollout

SAMPLER_DIFFERENCE = "sampling/sampling_logp_difference"


@dataclass
class OldPass:
    """The old policy on one micro-batch of B responses with M response tokens in all.

    Attributes:
        members: (B,) indices into the rollout.
        advantages: (B,) of the responses.
        logprobs: (M,) of the old policy.
        reference_logprobs: (M,) of the reference policy; None without one.
        routing: None for a dense student.
        teacher: its hidden states, for distillation.
        kd_weight: (M,) each token's share of L_KD over its mini-batch; None with --kd-as advantage.
        token_advantages: (M,) with it; else None, and each token has its response's.
        correction: (M,) weight of each token's policy term; None without --rollout-correction.
        mini_batch: number of the one that it belongs to; half: 0 or 1, of the mini-batch, with --log-noise-every.
    """

    batch: TokenBatch
    members: list[int]
    advantages: Tensor
    logprobs: Tensor
    reference_logprobs: Tensor | None = None
    routing: OldRouting | None = None
    teacher: TeacherStates | None = None
    kd_weight: Tensor | None = None
    token_advantages: Tensor | None = None
    correction: Tensor | None = None
    mini_batch: int = 0
    half: int = 0


@torch.no_grad()
def run_old_policy(
    policy: nn.Module,
    student: LanguageModel,
    teacher: Teacher | None,
    reference: nn.Module | None,
    rollout: Rollout,
    options: TrainOptions,
    processes: Processes,
) -> list[OldPass]:
    """Run one no-grad forward over this process's share; the updates' ratios start at its log-probabilities.

    The micro-batches made here are those of the updates too.
    """
    passes, store = [], _routing_store(student, rollout, options, processes.device)
    counted = ReplayCount(processes.device)
    halves = halves_of(options)
    for part, numbers in _micro_batches(rollout, options, processes):
        members = [rollout.share[number] for number in numbers]
        sequences = [rollout.sequences[i] for i in members]
        batch = collate(sequences, student.pad_id, processes.device)
        routing, watched = None, nullcontext()
        if store is not None and student.adapter is not None:
            routing = store.part(batch, with_routes=options.router_replay == "old")
            write = routing.writer(student.adapter, batch)
            watched = student.adapter.observe(write)
            if options.router_replay == "rollout":
                routes = batch_routes(
                    [rollout.routes[number] for number in numbers], batch.input_ids.shape[1]
                )
                watched, routing = (
                    counted.replaying(student.adapter, routes, write),
                    replace(routing, routes=routes),
                )
        with watched:
            old = OldPass(
                batch,
                members,
                rollout.advantages[members].to(processes.device),
                _logprobs(policy, batch, options.temperature),
                routing=routing,
                mini_batch=part // halves,
                half=part % halves,
            )
        if processes.device.type == "cuda":
            torch.cuda.current_stream(processes.device).synchronize()  # the routing is on the host, too
        if reference is not None:
            old.reference_logprobs = _logprobs(reference, batch, options.temperature)
        if teacher is not None:
            old.teacher = teacher.states(sequences, [rollout.prompts[i].teacher_ids for i in members])
        passes.append(old)
    if options.kd_as == "advantage" and teacher is not None:
        rollout.metrics |= _distil_by_advantage(passes, teacher, rollout, options, processes)
    else:
        _weigh_distillation(passes, rollout, options, processes)
    rollout.metrics |= counted.metrics(processes) | _correct(passes, rollout, options, processes)
    return passes


def halves_of(options: TrainOptions) -> int:
    """Return into how many parts a mini-batch is cut, to compare their gradients."""
    return 2 if options.log_noise_every else 1


def _micro_batches(
    rollout: Rollout, options: TrainOptions, processes: Processes
) -> Iterator[tuple[int, list[int]]]:
    """Yield number of the part and members of each micro-batch, the latter as places in this process's share.

    Parts are mini-batches, or halves of them. Prompts are dealt out to them in turn, so that they are the same for any
    number of processes.
    """
    parts = options.mini_batches * halves_of(options)
    for part in range(parts):
        places = [
            place
            for place, member in enumerate(rollout.share)
            if member // options.num_generations % parts == part
        ]
        lengths = [len(rollout.sequences[rollout.share[place]]) for place in places]
        for batch in processes.equal_batches(micro_batches(lengths, options.micro_batch_tokens)):
            yield part, [places[number] for number in batch]


def _correct(
    passes: list[OldPass], rollout: Rollout, options: TrainOptions, processes: Processes
) -> dict[str, float]:
    """Set the passes' weights against a sampler that is another policy, and return how far it is."""
    kind = options.rollout_correction
    if kind == "none":
        return {}
    ratios = []
    for old in passes:
        batch, mask = old.batch, old.batch.response_mask
        sampled = torch.tensor(
            [value for member in old.members for value in rollout.sampler_logprobs[member]]
        )
        sampled, before = batch.pad(sampled.to(old.logprobs)), batch.pad(old.logprobs)
        old.correction = correction_weights(before, sampled, mask, kind)[mask]
        log_ratio = (before - sampled) * mask
        ratios.append((log_ratio.sum(1) if kind == "mis" else log_ratio[mask]).exp().cpu())
    return correction_metrics(torch.cat(processes.gather(torch.cat(ratios))), kind)


def sampler_metrics(passes: list[OldPass], rollout: Rollout, processes: Processes) -> dict[str, float]:
    """Compute mean and largest difference of the sampler's log-probabilities from the old policy's, over all tokens.

    Sampling from a policy that is not the one that is trained biases every ratio. Names as in TRL.
    """
    total, largest, count = 0.0, 0.0, 0
    for old in passes:
        sampled = [value for member in old.members for value in rollout.sampler_logprobs[member]]
        difference = (old.logprobs.cpu() - torch.tensor(sampled)).abs()
        total, count = total + float(difference.sum()), count + len(sampled)
        largest = max(largest, float(difference.max()))
    sums = processes.sum_each({"total": total, "count": count})
    return {
        f"{SAMPLER_DIFFERENCE}/mean": sums["total"] / max(sums["count"], 1),
        f"{SAMPLER_DIFFERENCE}/max": processes.max_each({"max": largest})["max"],
    }


def comparison_metrics(passes: list[OldPass], processes: Processes) -> dict[str, float]:
    """Compute the shares of response tokens compared with the teacher, before --kd-on, and beyond its positions."""
    states = [old.teacher for old in passes if old.teacher is not None]
    counts = processes.sum_each(
        {
            "tokens": sum(len(state.comparable) for state in states),
            "compared": sum(int(state.comparable.sum()) for state in states),
            "beyond": sum(state.beyond for state in states),
        }
    )
    tokens = max(counts["tokens"], 1)
    return {"kd/compared": counts["compared"] / tokens, "kd/beyond_positions": counts["beyond"] / tokens}


def _routing_store(
    student: LanguageModel, rollout: Rollout, options: TrainOptions, device: torch.device
) -> RoutingStore | None:
    if student.adapter is None:
        return None
    tokens = sum(len(rollout.sequences[i].response_ids) for i in rollout.share)
    pinned = device.type == "cuda"
    return RoutingStore(student.adapter, tokens, TRACE_DTYPES[options.trace_dtype], pinned=pinned)


def _logprobs(policy: nn.Module, batch: TokenBatch, temperature: float) -> Tensor:
    def compute(hidden: Tensor, head: Head) -> Tensor:
        return token_logprobs(hidden, head, batch, temperature)[0]

    return policy(batch.input_ids, batch.attention_mask, batch.select, compute)


def _distil_by_advantage(
    passes: list[OldPass],
    teacher: Teacher,
    rollout: Rollout,
    options: TrainOptions,
    processes: Processes,
) -> dict[str, float]:
    """Set each token's advantage, A less w_KD (log pi_old - log p_T), and let the teacher's states go.

    Source: docs/METHOD.md, section 4, "Stage II".
    """
    sums = {"estimate": 0.0, "tokens": 0.0}
    for old in passes:
        assert old.teacher is not None
        kept, counted = old.teacher.comparable, _distilled(old, old.teacher, rollout, options)
        estimate = torch.zeros_like(old.logprobs)
        known = teacher.logprobs(old.teacher, old.batch.targets, options.temperature)
        estimate[kept] = old.logprobs[kept] - known.to(old.logprobs)
        estimate = estimate * counted
        sums["estimate"] += float(estimate.sum())
        sums["tokens"] += float(counted.sum())
        if options.kd_clamp is not None:
            estimate = estimate.clamp(-options.kd_clamp, options.kd_clamp)
        old.token_advantages = old.advantages[old.batch.rows] - options.kd_weight * estimate
        old.teacher = replace(old.teacher, hidden=old.teacher.hidden[:0])
    total = processes.sum_each(sums)
    return {"kd/kl": total["estimate"] / max(total["tokens"], 1)}


def _distilled(old: OldPass, states: TeacherStates, rollout: Rollout, options: TrainOptions) -> Tensor:
    """Return which response tokens (M,) are distilled on: comparable, and of a response that --kd-on takes."""
    kept = states.comparable
    if options.kd_on == "all":
        return kept
    correct = rollout.correct[old.members].to(kept.device)[old.batch.rows] > 0.5
    return kept & (correct if options.kd_on == "correct" else ~correct)


def _weigh_distillation(
    passes: list[OldPass], rollout: Rollout, options: TrainOptions, processes: Processes
) -> None:
    """Set each pass's weight to 1 / (compared tokens of its mini-batch, all processes), 0 where none is."""
    for old in passes:
        if old.teacher is None:
            continue
        old.kd_weight = _distilled(old, old.teacher, rollout, options).float()
    compared = dict.fromkeys(map(str, range(options.mini_batches)), 0.0)
    for old in passes:
        if old.kd_weight is not None:
            compared[str(old.mini_batch)] += float(old.kd_weight.sum())
    totals = processes.sum_each(compared)
    for old in passes:
        if old.kd_weight is not None:
            old.kd_weight /= max(totals[str(old.mini_batch)], 1.0)
