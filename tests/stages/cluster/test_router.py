"""Every held-out number of a run on the pico pair against an independent computation."""

import weakref
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM, Qwen3MoeForCausalLM

from padd_artifacts.artifact import Artifact, open_artifact
from padd_artifacts.writer import Output
from padd_stages.cluster import stage as cluster
from padd_stages.cluster.balanced import random_balanced
from padd_stages.cluster.options import ClusterInputs, ClusterOptions
from padd_stages.cluster.quality import selectivity
from padd_stages.lib.data.sequences import hold_out
from padd_stages.lib.data.subdomains import SUBDOMAINS
from padd_stages.lib.measures.ridge import RidgeSums
from padd_stages.lib.runtime.seeds import epoch_order, generator_for

TEACHER_LAYERS, EXPERTS, TOP_K, D_T, D_S = (0, 1), 5, 2, 24, 28
OMEGA, HELD_OUT, PENALTY = 0.4, 0.4, 0.01
OPTIONS = ClusterOptions(
    router_blend=OMEGA, held_out=HELD_OUT, ridge_penalty=PENALTY, batch_tokens=300, stability=False
)


@pytest.fixture(scope="module")
def run(pico, tmp_path_factory):
    def run(**changes) -> Artifact:
        inputs = ClusterInputs(teacher=str(pico.teacher), student=str(pico.student), split=pico.split)
        out = Output(tmp_path_factory.mktemp("clusters") / "out")
        return cluster.run(inputs, OPTIONS.model_copy(update=changes), out)

    return run


@pytest.fixture(scope="module")
def made(run):
    return run()


@dataclass
class Side:
    """One text as both models see it, at the tokens that they share: by layer, (tokens, .)."""

    subdomain: str
    neurons: list[Tensor]
    ffn_inputs: list[Tensor]
    moe_inputs: list[Tensor]


@pytest.fixture(scope="module")
def sides(pico):
    """All texts of D_A in the order in which they are read. The tokenizers cut alike, so all tokens are shared."""
    teacher = Qwen2ForCausalLM.from_pretrained(pico.teacher).eval()
    student = Qwen3MoeForCausalLM.from_pretrained(pico.student).eval()
    tokenizers = [PreTrainedTokenizerFast.from_pretrained(folder) for folder in (pico.teacher, pico.student)]
    seen: dict[tuple[str, int], Tensor] = {}

    def keep(what, layer):
        return lambda _, args: seen.__setitem__((what, layer), args[0].flatten(0, -2))

    for t, layer in enumerate(teacher.model.layers):
        layer.mlp.down_proj.register_forward_pre_hook(keep("neurons", t))
        layer.mlp.up_proj.register_forward_pre_hook(keep("ffn", t))
    for m, layer in enumerate(student.model.layers):
        layer.mlp.gate.register_forward_pre_hook(keep("moe", m))
    rows = open_artifact(pico.split).jsonl("a.jsonl")
    result = []
    for index in epoch_order(0, 0, len(rows)):
        text = rows[index]["problem"]
        text += "\n" + rows[index]["solution"] if rows[index].get("solution") else ""
        with torch.no_grad():
            for model, tokenizer in zip((teacher, student), tokenizers):
                model.model(torch.tensor([tokenizer(text)["input_ids"]]))
        parts = [[seen[what, layer] for layer in TEACHER_LAYERS] for what in ("neurons", "ffn", "moe")]
        result.append(Side(rows[index]["subdomain"], [n.abs() for n in parts[0]], *parts[1:]))
    return result


def halves(sides):
    count = round(HELD_OUT * len(sides))
    return sides[count:], sides[:count]


def of_clusters(neurons, assignment):
    return torch.stack([neurons[:, assignment == j].mean(dim=1) for j in range(EXPERTS)], dim=1)


def joined(sides, name, layer):
    return torch.cat([getattr(side, name)[layer] for side in sides]).double()


def ridge(student, teacher):
    gram = student.T @ student
    damped = gram + PENALTY * gram.diagonal().mean() * torch.eye(D_S, dtype=torch.float64)
    return torch.linalg.solve(damped, student.T @ teacher).T


def slow_layer(sides, pico, assignment, centroids, m):
    """Recalls by (map, match, omega) and the ridge map's R^2, from all tokens at once."""
    fit, held = halves(sides)
    old = Qwen3MoeForCausalLM.from_pretrained(pico.student).model.layers[m].mlp.gate.weight.detach().double()
    activations = of_clusters(joined(fit, "neurons", m), assignment)
    probs = (joined(fit, "moe_inputs", m) @ old.T).softmax(dim=-1)
    correlation = np.corrcoef(activations.T, probs.T)[:EXPERTS, EXPERTS:]
    clusters, experts = linear_sum_assignment(-correlation)
    orders = {"index": np.arange(EXPERTS), "hungarian": clusters[np.argsort(experts)]}
    mapping = ridge(joined(fit, "moe_inputs", m), joined(fit, "ffn_inputs", m))
    gaussian = torch.randn(D_T, D_S, generator=torch.Generator().manual_seed(0)).double() / D_S**0.5
    directions = {
        "ridge": centroids.double() @ mapping,
        "random-projection": centroids.double() @ gaussian,
        "truncate": torch.cat([centroids.double(), torch.zeros(EXPERTS, D_S - D_T)], dim=1),
    }
    inputs, targets = joined(held, "moe_inputs", m), joined(held, "ffn_inputs", m)
    relative = of_clusters(joined(held, "neurons", m), assignment) / activations.mean(dim=0)
    most_active = relative.argmax(dim=1).tolist()
    recalls = {}
    for match, order in orders.items():
        for name, direction in directions.items() | {("keep", None)}:
            for omega in (OMEGA, 1.0):
                rows = []
                for j in range(EXPERTS):
                    new = old[j]
                    if direction is not None:
                        new = direction[order[j]] - direction.mean(dim=0)
                        new = new * old[j].norm() / new.norm()
                    blend = (1 - omega) * old[j] + omega * new
                    rows.append(blend * old[j].norm() / blend.norm())
                top = (inputs @ torch.stack(rows).T).topk(TOP_K).indices.tolist()
                hits = [order.tolist().index(c) in chosen for c, chosen in zip(most_active, top)]
                recalls[name, match, omega] = np.mean(hits)
    variance = (targets - targets.mean(dim=0)).square().sum()
    return recalls, 1 - float((targets - inputs @ mapping.T).square().sum() / variance)


def test_recalls_and_r_squared_are_those_of_a_slow_version(made, sides, pico):
    tensors, report = made.tensors("teacher_layers.safetensors"), made.report
    totals = []
    for m, t in enumerate(TEACHER_LAYERS):
        layer = report["router"][str(m)]
        recalls, r_squared = slow_layer(
            sides, pico, tensors[f"layer.{t}.assignment"], tensors[f"layer.{t}.centroids"], m
        )
        expected = {
            "maps": {
                name: {
                    "recall": recalls[name, "hungarian", OMEGA],
                    "recall_unblended": recalls[name, "hungarian", 1.0],
                }
                for name in ("ridge", "random-projection", "truncate", "keep")
            },
            "match": {
                match: {
                    "recall": recalls["ridge", match, OMEGA],
                    "recall_unblended": recalls["ridge", match, 1.0],
                    "recall_old": recalls["keep", match, 1.0],
                }
                for match in ("hungarian", "index")
            },
        }
        for part, table in expected.items():
            assert set(layer["comparison"][part]) == set(table)
            for name, values in table.items():
                assert layer["comparison"][part][name] == pytest.approx(values, abs=1e-6), (m, part, name)
        assert layer["r_squared"] == pytest.approx(r_squared, abs=2e-5)
        assert layer["recall"] == layer["comparison"]["maps"]["ridge"]["recall"]
        assert layer["recall_old"] == layer["comparison"]["maps"]["keep"]["recall"]
        totals.append(recalls["truncate", "hungarian", OMEGA])
    assert len({round(v, 6) for v in recalls.values()}) > 4, "all routers alike: nothing is tested"
    assert report["comparison"]["maps"]["truncate"]["recall"] == pytest.approx(np.mean(totals), abs=1e-6)
    assert report["chance"] == TOP_K / EXPERTS


def test_comparing_changes_no_tensor_and_the_map_in_use_changes_no_comparison(made, run):
    quiet = run(compare_maps=False)
    for name in ("teacher_layers.safetensors", "student_layers.safetensors"):
        assert quiet.file(name).read_bytes() == made.file(name).read_bytes()
    assert quiet.report["comparison"] is None
    for m, layer in made.report["router"].items():
        assert quiet.report["router"][m] == layer | {"comparison": None}
    assert quiet.manifest.key != made.manifest.key
    other = run(router_map="truncate")
    assert other.report["comparison"]["maps"] == made.report["comparison"]["maps"]
    assert (
        other.report["router"]["0"]["recall"]
        == made.report["router"]["0"]["comparison"]["maps"]["truncate"]["recall"]
    )


@pytest.mark.parametrize("match", ["hungarian", "index"])
def test_a_kept_router_is_the_old_one_in_every_number(run, match):
    report = run(router_map="keep", match=match).report
    for layer in report["router"].values():
        assert layer["recall"] == layer["recall_unblended"] == layer["recall_old"]
        for recalls in layer["comparison"]["match"].values():
            assert len(set(recalls.values())) == 1
        assert layer["comparison"]["match"][match]["recall"] == layer["recall"]
        assert layer["r_squared"] is not None
    plain = run(router_map="keep", match=match, compare_maps=False).report
    assert all(layer["r_squared"] is None for layer in plain["router"].values())


def test_sums_are_let_go_layer_by_layer(run, monkeypatch):
    alive, counts = weakref.WeakSet(), []
    begin, solve = RidgeSums.__init__, RidgeSums.solve

    def counted(self, *args):
        begin(self, *args)
        alive.add(self)

    def counting(self, penalty):
        counts.append(len(alive))
        return solve(self, penalty)

    monkeypatch.setattr(RidgeSums, "__init__", counted)
    monkeypatch.setattr(RidgeSums, "solve", counting)
    run()
    assert counts == [2, 1]
    assert not alive


def test_selectivity_is_that_of_a_slow_version_for_both_kinds_of_clusters(made, sides):
    assignments = made.tensors("teacher_layers.safetensors")
    there = [s for s in SUBDOMAINS if any(side.subdomain == s for side in sides)]
    assert len(there) > 1
    for layer in TEACHER_LAYERS:
        drawn = int(generator_for(0, "selectivity", layer).integers(2**31))
        for name, assignment in (
            ("selectivity", assignments[f"layer.{layer}.assignment"].numpy()),
            ("selectivity_random", random_balanced(40, EXPERTS, drawn)),
        ):
            h = np.stack(
                [
                    of_clusters(
                        joined([side for side in sides if side.subdomain == s], "neurons", layer), assignment
                    )
                    .mean(dim=0)
                    .numpy()
                    for s in there
                ]
            )
            shares = h / h.mean(axis=1, keepdims=True)
            spread = np.log2(shares / shares.mean(axis=0)).std(axis=0).mean()
            assert made.report["teacher_layers"][str(layer)][name] == pytest.approx(spread, abs=1e-5)
    by_target = made.tensors("student_layers.safetensors")["moe.1.target_subdomain"].double().numpy()
    assert made.report["teacher_layers"]["1"]["selectivity"] == pytest.approx(
        selectivity(by_target), abs=1e-5
    )


def test_co_activation_reads_no_held_out_text(pico, run, monkeypatch):
    read, profiled = [], []
    read_texts, write_profiles = cluster.read_texts, cluster.write_profiles

    def reading(*args, **kwargs):
        read.extend(read_texts(*args, **kwargs))
        return read

    def profiling(teacher, texts, *args):
        profiled.extend(texts)
        return write_profiles(teacher, texts, *args)

    monkeypatch.setattr(cluster, "read_texts", reading)
    monkeypatch.setattr(cluster, "write_profiles", profiling)
    run(features="coactivation")
    fitted_on, held_out = hold_out(read, HELD_OUT)
    assert [id(text) for text in profiled] == [id(text) for text in fitted_on]
    assert held_out
