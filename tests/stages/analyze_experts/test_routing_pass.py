import math

import numpy as np
import pytest
import torch

from padd_artifacts.manifest import Parent
from padd_stages.analyze_experts.routing_pass import sum_routing
from padd_stages.analyze_experts.texts import AnalysisText
from padd_stages.lib.models.loading import LanguageModel
from padd_stages.lib.models.moe_adapter import MoEAdapter

SUBDOMAINS, LAYERS, EXPERTS, TOP_K = 4, 2, 5, 2


@pytest.fixture
def student(model, tokenizer, alone):
    parent = Parent(kind="model", digest="0")
    return alone(LanguageModel(model, tokenizer, parent, MoEAdapter.attach(model)))


def random_texts(seed, count=6):
    generator = np.random.default_rng(seed)
    texts = []
    for row in range(count):
        length = int(generator.integers(3, 14))
        first = int(generator.integers(0, length - 1))
        last = int(generator.integers(first + 1, length + 1))
        ids = tuple(int(i) for i in generator.integers(3, 19, size=length))
        texts.append(AnalysisText(ids, first, last, int(generator.integers(0, SUBDOMAINS - 1)), row))
    return texts


def slow_sums(model, texts, bias):
    """Text by text, token by token, from transformers' own router logits."""
    slots = np.zeros((len(texts), LAYERS, EXPERTS), dtype=int)
    probabilities, entropy = np.zeros((LAYERS, SUBDOMAINS, EXPERTS)), np.zeros(LAYERS)
    for b, text in enumerate(texts):
        with torch.no_grad():
            out = model(input_ids=torch.tensor([text.ids]), output_router_logits=True)
        for m, logits in enumerate(out.router_logits):
            for t in range(text.first, text.last):
                probs = (logits[t] + bias[m]).double().softmax(-1)
                for j in probs.topk(TOP_K).indices.tolist():
                    slots[b, m, j] += 1
                probabilities[m, text.subdomain] += probs.numpy()
                entropy[m] -= sum(p * math.log(p) for p in probs.tolist())
    return slots, probabilities, entropy


@pytest.mark.parametrize("batch_tokens", [1, 20, 1000])
def test_equals_text_by_text_sums_of_native_logits(student, batch_tokens):
    texts = random_texts(0)
    slots, probabilities, entropy = slow_sums(student.model, texts, torch.zeros(LAYERS, EXPERTS))
    sums, paths = sum_routing(student, texts, SUBDOMAINS, batch_tokens=batch_tokens)
    assert paths.report()["tokens"] == sum(t.counted for t in texts)
    np.testing.assert_array_equal(sums.slots, slots)
    np.testing.assert_allclose(sums.probabilities, probabilities, atol=1e-5)
    np.testing.assert_allclose(sums.entropy, entropy, atol=1e-4)
    tokens = [sum(t.last - t.first for t in texts if t.subdomain == s) for s in range(SUBDOMAINS)]
    assert sums.tokens.tolist() == tokens
    assert (sums.joint.sum(axis=1) == TOP_K * np.array(tokens)).all()
    present = np.array(tokens) > 0
    np.testing.assert_allclose(sums.mean_probabilities[:, present].sum(axis=-1), 1.0, atol=1e-6)
    assert (sums.mean_probabilities[:, ~present] == 0).all()
    assert (sums.mean_entropy > 0).all()
    assert (sums.mean_entropy < 1).all()


def test_the_bias_counts(student):
    texts = random_texts(1)
    bias = torch.zeros(LAYERS, EXPERTS)
    bias[1, 3] = 50.0
    student.loaded.adapter.set_bias(bias)
    sums, paths = sum_routing(student, texts, SUBDOMAINS, batch_tokens=64)
    tokens = sums.tokens.sum()
    assert sums.slots[:, 1, 3].sum() == tokens
    assert all(3 in row["path"][1] for row in paths.report()["top"])
    assert sums.mean_entropy[1] == pytest.approx(0.0, abs=1e-6)
    assert sums.slots[:, 0, 3].sum() < tokens
