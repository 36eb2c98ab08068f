"""The routing analysis of every family: any MoE that the adapter takes can be analysed."""

import numpy as np
import pytest
import torch

from padd_artifacts.manifest import Parent
from padd_stages.analyze_experts.expert_similarity import weight_similarity
from padd_stages.analyze_experts.probe import probe_experts
from padd_stages.analyze_experts.routing_pass import sum_routing
from padd_stages.analyze_experts.texts import AnalysisText
from padd_stages.lib.models.loading import LanguageModel
from padd_stages.lib.models.moe_adapter import MoEAdapter

pytestmark = pytest.mark.usefixtures("one_thread")

SUBDOMAINS = 3


@pytest.fixture
def student(tiny, family):
    model = tiny(family)
    model.generation_config.eos_token_id = 0
    tokenizer = type("Tokenizer", (), {"pad_token_id": 0, "eos_token_id": 0})()
    return LanguageModel(model, tokenizer, Parent(kind="model", digest="0"), MoEAdapter.attach(model))


def test_sums_and_probe_see_what_a_trace_sees(student, ids, alone):
    cut = [row[: len(row) - b].tolist() for b, row in enumerate(ids[:3])]
    texts = [AnalysisText(tuple(row), b, len(row), b % SUBDOMAINS, b) for b, row in enumerate(cut)]
    adapter = student.adapter
    with torch.no_grad():
        traces = []
        for text in texts:
            with adapter.trace() as trace:
                student.model(input_ids=torch.tensor([text.ids]), use_cache=False)
            traces.append((trace.probs[:, text.first : text.last], trace.indices[:, text.first : text.last]))
    sums, paths = sum_routing(alone(student), texts, SUBDOMAINS, batch_tokens=64)
    for b, (_, indices) in enumerate(traces):
        slow = torch.stack([torch.bincount(m.flatten(), minlength=adapter.num_experts) for m in indices])
        np.testing.assert_array_equal(sums.slots[b], slow.numpy())
    assert paths.report()["tokens"] == sum(text.counted for text in texts)
    probe = probe_experts(alone(student), texts, batch_tokens=64, keep_routes=True, teacher={}, ends={})
    assert probe.routes is not None
    torch.testing.assert_close(
        probe.routes.probs, torch.cat([probs for probs, _ in traces], dim=1), atol=1e-4, rtol=1e-3
    )
    assert np.diagonal(probe.between, axis1=1, axis2=2) == pytest.approx(1.0)
    alike = weight_similarity(adapter.layers[-1].experts)
    assert alike.shape == (adapter.num_experts,) * 2
    assert np.diagonal(alike) == pytest.approx(1.0)
    assert np.abs(alike - np.eye(len(alike))).max() < 0.5  # random experts are not alike
