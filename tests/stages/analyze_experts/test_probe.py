"""All experts on a sample, beside what one forward a text and formulas written out give."""

import numpy as np
import pytest
import torch
from torch.nn.functional import silu
from transformers import Qwen2Config, Qwen2ForCausalLM

from padd_artifacts.manifest import Parent
from padd_stages.analyze_experts.probe import ClusterTokens, probe_experts, read_clusters
from padd_stages.analyze_experts.texts import AnalysisText
from padd_stages.lib.models.expert_clusters import ExpertClusters
from padd_stages.lib.models.loading import LanguageModel
from padd_stages.lib.models.moe_adapter import MoEAdapter

LAYERS, EXPERTS, TOP_K = 2, 5, 2


def texts_of(seed, count=7):
    generator = np.random.default_rng(seed)
    texts = []
    for row in range(count):
        length = int(generator.integers(4, 12))
        first = int(generator.integers(0, 3))
        ids = tuple(int(i) for i in generator.integers(3, 19, size=length))
        texts.append(AnalysisText(ids, first, length - 1, 0, row))
    return texts


@pytest.fixture
def student(model, tokenizer):
    adapter = MoEAdapter.attach(model)
    adapter.set_bias(torch.linspace(-1, 1, LAYERS * EXPERTS).view(LAYERS, EXPERTS))
    return LanguageModel(model, tokenizer, Parent(kind="model", digest="0"), adapter)


@torch.no_grad()
def slow_routes(student, text):
    """Of one text, (L, c, N) activations by the formula of a gated FFN, (L, c, N) probabilities, sets of experts."""
    with student.adapter.trace(inputs=True) as trace:
        student.model(torch.tensor([text.ids]))
    counted = slice(text.first, text.last)
    activations = []
    for layer, hidden in zip(student.adapter.layers, trace.inputs, strict=True):
        inner = [hidden[counted] @ w.T for w in layer.experts.gate_up_proj]
        halves = [each.chunk(2, dim=-1) for each in inner]
        activations.append(torch.stack([(silu(g) * u).abs().mean(-1) for g, u in halves], dim=-1))
    return torch.stack(activations), trace.probs[:, counted], trace.indices[:, counted]


@pytest.mark.parametrize("batch_tokens", [1, 1000])
def test_correlations_and_routes_equal_those_text_by_text(student, alone, batch_tokens):
    texts = texts_of(0)
    probe = probe_experts(
        alone(student), texts, batch_tokens=batch_tokens, keep_routes=True, teacher={}, ends={}
    )
    # the longest text comes first
    slow = [slow_routes(student, text) for text in sorted(texts, key=lambda text: (-len(text), text.row))]
    activations = torch.cat([each[0] for each in slow], dim=1).double().numpy()
    for layer, between in zip(activations, probe.between, strict=True):
        np.testing.assert_allclose(between, np.corrcoef(layer.T), atol=1e-5)
    assert probe.routes is not None
    torch.testing.assert_close(probe.routes.probs, torch.cat([each[1] for each in slow], dim=1))
    indices = torch.cat([each[2] for each in slow], dim=1)
    assert torch.equal(probe.routes.indices.long().sort().values, indices.sort().values)
    assert (probe.with_clusters, probe.aligned) == (None, 0)


def test_clusters_are_compared_at_tokens_that_end_at_the_same_character(student, alone):
    texts = texts_of(1)
    generator = torch.Generator().manual_seed(0)
    ends, teacher, pairs = {}, {}, []
    for text in texts[:-1]:  # the last one the teacher did not read
        ends[text.row] = tuple(3 * i + 3 for i in range(text.counted))
        there = tuple(2 * i + 2 for i in range(text.counted + 2))
        activations = torch.rand(LAYERS, len(there), EXPERTS, generator=generator)
        teacher[text.row] = ClusterTokens(there, activations)
        mine = slow_routes(student, text)[0]
        shared = [end for end in ends[text.row] if end in there]
        pairs.append(
            (
                activations[:, [there.index(end) for end in shared]],
                mine[:, [ends[text.row].index(e) for e in shared]],
            )
        )
    probe = probe_experts(
        alone(student), texts, batch_tokens=30, keep_routes=False, teacher=teacher, ends=ends
    )
    first, second = (torch.cat(parts, dim=1).double().numpy() for parts in zip(*pairs, strict=True))
    assert probe.aligned == first.shape[1] > 10
    assert probe.with_clusters is not None
    for m in range(LAYERS):
        whole = np.corrcoef(first[m].T, second[m].T)
        np.testing.assert_allclose(probe.with_clusters[m], whole[:EXPERTS, EXPERTS:], atol=1e-5)
    assert probe.routes is None


def test_the_teachers_clusters_come_text_by_text(tokenizer, alone):
    torch.manual_seed(3)
    config = Qwen2Config(
        vocab_size=19,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.5,
    )
    teacher = LanguageModel(Qwen2ForCausalLM(config).eval(), tokenizer, Parent(kind="model", digest="0"))
    assignments = {layer: torch.randperm(40) % EXPERTS for layer in (0, 2)}
    order = torch.stack([torch.randperm(EXPERTS) for _ in range(LAYERS)])
    texts = texts_of(2)
    ends = {text.row: (text.row,) * text.counted for text in texts}
    clusters = ExpertClusters((2, 0), assignments, order)
    read = read_clusters(alone(teacher), clusters, texts, ends, batch_tokens=25)
    assert set(read) == set(range(len(texts)))
    for text in texts:
        neurons = {}
        for layer, block in enumerate(teacher.model.model.layers):
            block.mlp.down_proj.register_forward_pre_hook(
                lambda _, args, layer=layer, neurons=neurons: neurons.__setitem__(layer, args[0][0].abs())
            )
        with torch.no_grad():
            teacher.model(torch.tensor([text.ids]))
        for m, layer in enumerate((2, 0)):
            for j in range(EXPERTS):
                members = assignments[layer] == order[m, j]
                expected = neurons[layer][text.first : text.last, members].mean(dim=-1)
                torch.testing.assert_close(read[text.row].activations[m, :, j], expected)
        assert read[text.row].ends == ends[text.row]
