"""The before/after numbers against row by row, whole-matrix versions of themselves."""

import numpy as np
import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score

from padd_stages.lib.grading.grader import Grader
from padd_stages.lib.measures.specialisation import entropy
from padd_stages.warmup.held_out import HeldOut


@pytest.fixture(scope="module")
def grader():
    with Grader(workers=1, time_limit=5.0) as grader:
        yield grader


def measure(bench, items, grader, **options):
    options = bench.options(micro_batch_tokens=70, **options)
    return HeldOut(
        bench.policy,
        bench.student,
        bench.teacher,
        bench.expert_clusters,
        items,
        grader,
        bench.processes,
        options,
    )


@torch.no_grad()
def slow_states(bench, items, mix):
    """Every response token where it is predicted: activations, clusters, probs (L, M, N), indices (L, M, K)."""
    adapter, parts = bench.student.adapter, []
    for item in items:
        ids = torch.tensor([[*item.sequence.prompt_ids, *item.sequence.response_ids]])
        start = len(item.sequence.prompt_ids) - 1
        states = bench.teacher.states([item.sequence], [item.teacher_prompt], bench.expert_clusters)
        with adapter.uniform(mix), adapter.trace(activations=True) as trace:
            logits = bench.student.model(input_ids=ids).logits[0, start:-1]
        loss = torch.nn.functional.cross_entropy(logits, ids[0, start + 1 :], reduction="none")
        here = slice(start, -1)
        parts.append(
            (
                trace.activations[:, here],
                states.activations,
                trace.probs[:, here],
                trace.indices[:, here],
                loss[None],
            )
        )
    return [torch.cat(each, dim=1).double().numpy() for each in zip(*parts, strict=True)]


@pytest.mark.parametrize(("routing", "mix"), [("topk", 0.0), ("uniform", 1.0)])
def test_equals_the_slow_numbers(bench, grader, routing, mix):
    items = bench.items[:8]
    report = measure(bench, items, grader, warmup_routing=routing).report()[routing]
    activations, clusters, probs, indices, losses = slow_states(bench, items, mix)
    layers, _, experts = activations.shape
    assert report["loss"] == pytest.approx(losses.mean(), rel=1e-5)
    assert 0 <= report["accuracy"] <= 1
    assert report["routing_entropy"] == pytest.approx(entropy(probs).mean() / np.log(experts), rel=1e-5)
    share = np.stack([np.bincount(row.ravel().astype(int), minlength=experts) for row in indices]) / (
        indices[0].size
    )
    assert report["load_entropy"] == pytest.approx(entropy(share).mean() / np.log(experts), rel=1e-9)
    assert report["max_vio"] == pytest.approx((experts * share.max(axis=1) - 1).mean(), rel=1e-9)
    assert report["dead_experts"] == (share == 0).sum()
    labels = [item.row["subdomain"] for item in items for _ in item.sequence.response_ids]
    slots = np.repeat(labels, indices.shape[-1])
    nmi = [normalized_mutual_info_score(slots, row.ravel(), average_method="geometric") for row in indices]
    assert report["nmi"] == pytest.approx(np.mean(nmi), rel=1e-6)
    assert 0 < report["nmi_chance"] < 1
    pairs = [
        abs(np.corrcoef(activations[m, :, i], activations[m, :, j])[0, 1])
        for m in range(layers)
        for i in range(experts)
        for j in range(i)
    ]
    assert report["expert_correlation"] == pytest.approx(np.mean(pairs), rel=1e-5)
    aligned = [
        np.corrcoef(activations[m, :, j], clusters[m, :, j])[0, 1]
        for m in range(layers)
        for j in range(experts)
    ]
    assert report["cluster_alignment"] == pytest.approx(np.mean(aligned), abs=1e-6)


def test_the_loss_under_top_k_is_that_of_the_model_as_it_is(bench, grader):
    item = bench.items[0]
    ids = torch.tensor([[*item.sequence.prompt_ids, *item.sequence.response_ids]])
    start = len(item.sequence.prompt_ids)
    with torch.no_grad():
        logits = bench.student.model(input_ids=ids).logits[0, start - 1 : -1]
    loss = torch.nn.functional.cross_entropy(logits, ids[0, start:])
    report = measure(bench, [item], grader).report()
    assert report["topk"]["loss"] == pytest.approx(float(loss), rel=1e-5)
    assert report["topk"]["nmi"] is None, "one problem has one subdomain"
    assert report["topk"]["nmi_chance"] is None


def test_one_forward_of_the_teacher_a_batch_and_one_of_the_student_a_routing(bench, grader):
    seen = []
    bench.teacher.policy.register_forward_hook(lambda *_: seen.append("teacher"))
    bench.policy.register_forward_hook(lambda *_: seen.append("student"))
    measure(bench, bench.items[:1], grader).report()
    assert sorted(seen) == ["student", "student", "teacher"]
