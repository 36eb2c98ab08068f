"""The steps of warmup: the same gradient however the batch is cut, L_init against a slow one, routing by step."""

import pytest
import torch

from padd_stages.lib.models.moe_adapter import MoEAdapter
from padd_stages.lib.runtime.reporter import SILENT
from padd_stages.warmup.init_loss import init_term, routing_at
from padd_stages.warmup.loop import WarmupLoop, choose_parameters

SMALL_BATCH = 70  # padded tokens: one or two rows


def make_loop(bench, **options) -> WarmupLoop:
    resolved = bench.options(**options)
    init = init_term(bench.clusters, bench.expert_clusters, bench.processes, resolved)
    choose_parameters(bench.student, resolved)
    return WarmupLoop(
        bench.policy, bench.student, bench.teacher, bench.items, init, bench.processes, resolved, SILENT
    )


def gradients(bench, **options) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    loop = make_loop(bench, **options)
    sums = loop.accumulate(bench.items[:6], progress=0.5)
    grads = {name: p.grad.clone() for name, p in loop.parameters.items() if p.grad is not None}
    loop.optimizer.zero_grad()
    return grads, sums


@pytest.mark.parametrize("routing", ["topk", "uniform", "anneal"])
@pytest.mark.parametrize("target", ["dataset", "token"])
def test_the_gradient_does_not_depend_on_micro_batches(bench, target, routing):
    options = {"init_target": target, "warmup_routing": routing, "beta": 30.0}
    whole, sums = gradients(bench, **options)
    parts, part_sums = gradients(bench, **options, micro_batch_tokens=SMALL_BATCH)
    assert part_sums == pytest.approx(sums, rel=1e-4)
    without, _ = gradients(bench, **(options | {"beta": 0.0}))
    assert whole.keys() == parts.keys() == without.keys()
    for name, grad in whole.items():
        size = float(grad.abs().max())
        torch.testing.assert_close(parts[name], grad, atol=1e-5 * size, rtol=1e-4)
        if "down_proj" not in name:  # behind what L_init looks at; of the last layer it feels nothing
            assert float((without[name] - grad).abs().max()) > 0.01 * size, "L_init is not felt"


def distribution(h: torch.Tensor, xi: float) -> torch.Tensor:
    e = torch.exp(h / h.mean() / xi)
    return e / e.sum()


def slow_token_loss(bench, items, routing: str, xi: float) -> float:
    """Row by row, token by token, layer by layer; the pico teacher knows every word."""
    adapter, values = bench.student.adapter, []
    for item in items:
        ids = torch.tensor([[*item.sequence.prompt_ids, *item.sequence.response_ids]])
        states = bench.teacher.states([item.sequence], [item.teacher_prompt], bench.expert_clusters)
        with torch.no_grad(), routing_at(adapter, routing, 0.0), adapter.trace(activations=True) as trace:
            bench.student.model(input_ids=ids)
        for t in range(len(item.sequence.response_ids)):
            place = len(item.sequence.prompt_ids) - 1 + t
            layers = []
            for m in range(adapter.num_layers):
                wanted = states.activations[m, t]
                if routing == "topk":  # active experts only
                    wanted = wanted[trace.indices[m, place]]
                p, q = distribution(trace.activations[m, place], xi), distribution(wanted, xi)
                layers.append(float((p * (p / q).log()).sum()))
            values.append(sum(layers) / len(layers))
    return sum(values) / len(values)


@pytest.mark.parametrize("routing", ["topk", "uniform"])
def test_the_token_loss_is_the_mean_over_response_tokens(bench, routing):
    _, sums = gradients(bench, init_target="token", warmup_routing=routing, micro_batch_tokens=SMALL_BATCH)
    xi = bench.clusters.manifest.options["xi"]
    slow = slow_token_loss(bench, bench.items[:6], routing, xi)
    assert sums["loss/init"] == pytest.approx(slow, rel=1e-4)


@pytest.mark.parametrize(
    ("alpha", "beta", "target", "forwards"),
    [
        (1.0, 0.1, "token", 1),
        (0.0, 0.1, "token", 1),
        (1.0, 0.1, "dataset", 1),
        (0.0, 0.1, "dataset", 0),
        (0.0, 0.0, "token", 0),
    ],
)
def test_the_teacher_runs_once_or_not_at_all(bench, alpha, beta, target, forwards):
    seen = []
    bench.teacher.language_model.model.base_model.register_forward_hook(lambda *_: seen.append(1))
    gradients(bench, alpha=alpha, beta=beta, init_target=target)
    assert len(seen) == forwards


def test_annealing_begins_uniform_and_ends_with_the_students_own_routing(bench, monkeypatch):
    mixes, uniform = [], MoEAdapter.uniform
    monkeypatch.setattr(MoEAdapter, "uniform", lambda self, mix=1.0: mixes.append(mix) or uniform(self, mix))
    loop = make_loop(bench, warmup_routing="anneal", alpha=0.0, beta=0.0)
    for step in range(4):
        loop._step(step)
    assert mixes == pytest.approx([1.0, 2 / 3, 1 / 3, 0.0])


@torch.no_grad()
@pytest.mark.parametrize(("routing", "progress"), [("topk", 0.0), ("anneal", 1.0)])
def test_routing_ends_native(bench, routing, progress):
    ids = torch.tensor([bench.items[0].sequence.prompt_ids])
    native = bench.student.model(input_ids=ids).logits
    with routing_at(bench.student.adapter, routing, progress):
        torch.testing.assert_close(bench.student.model(input_ids=ids).logits, native, atol=1e-5, rtol=1e-4)
    with routing_at(bench.student.adapter, "uniform", progress):
        average = bench.student.model(input_ids=ids).logits
    assert not torch.allclose(average, native, atol=1e-4)
    with routing_at(bench.student.adapter, "anneal", 0.0):
        assert torch.equal(bench.student.model(input_ids=ids).logits, average)
