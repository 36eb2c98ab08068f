"""How alike experts are."""

import numpy as np
import pytest
import torch

from padd_stages.analyze_experts import expert_similarity as similarity
from padd_stages.analyze_experts.expert_similarity import similarity_json, weight_similarity


@pytest.mark.parametrize("columns", [7, 1 << 18])
def test_weights_against_cosines_of_whole_vectors(model, monkeypatch, columns):
    monkeypatch.setattr(similarity, "COLUMNS_AT_ONCE", columns)
    experts = model.model.layers[1].mlp.experts
    with torch.no_grad():
        experts.gate_up_proj[3] = 2 * experts.gate_up_proj[0]
        experts.down_proj[3] = 2 * experts.down_proj[0]
    vectors = [
        torch.cat([experts.gate_up_proj[j].flatten(), experts.down_proj[j].flatten()]).detach().double()
        for j in range(5)
    ]
    slow = [[float(torch.cosine_similarity(a, b, dim=0)) for b in vectors] for a in vectors]
    found = weight_similarity(experts)
    np.testing.assert_allclose(found, slow, atol=1e-6)
    assert found[0, 3] == pytest.approx(1.0)
    assert np.abs(found[0, 1]) < 0.2


def test_summary_leaves_the_diagonal_out():
    activations = np.array([[1.0, -0.8, 0.2], [-0.8, 1.0, 0.1], [0.2, 0.1, 1.0]])
    report = similarity_json(activations, np.eye(3))
    assert report == {
        "activation_mean": pytest.approx(1.1 / 3),
        "activation_max": 0.2,
        "weight_mean": 0.0,
        "weight_max": 0.0,
    }
