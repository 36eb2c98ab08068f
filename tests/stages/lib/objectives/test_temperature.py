import math

import pytest
import torch

from padd_stages.lib.objectives.temperature import phi, temperature_metrics


def test_phi():
    a = torch.tensor([-3.0, -0.5, 0.0, 0.5, 3.0], dtype=torch.float64)
    inverse, literal = phi(a, 0.8, "inverse"), phi(a, 0.8, "literal")
    for k, value in enumerate(a.tolist()):
        assert float(inverse[k]) == pytest.approx(max(0.25, 1 - math.tanh(0.8 * value)), abs=1e-12)
        assert float(literal[k]) == pytest.approx(max(0.25, 1 + math.tanh(0.8 * value)), abs=1e-12)
    assert float(inverse[0]) > 1.9
    assert float(inverse[-1]) == 0.25
    assert phi(a, 0.8, "fixed").tolist() == [1.0] * 5
    assert phi(a, 0.0, "inverse").tolist() == [1.0] * 5
    assert float(phi(a, 9.0, "literal", phi_min=0.1)[0]) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="kind"):
        phi(a, 1.0, "none")  # type: ignore[arg-type]


def test_temperature_metrics():
    temperature = torch.tensor([[1.0, 9.0, 2.0], [3.0, 4.0, 5.0]])
    mask = torch.tensor([[1, 0, 1], [1, 1, 1]])
    metrics = temperature_metrics(temperature, mask)
    assert list(metrics.values()) == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert temperature_metrics(temperature, torch.zeros(2, 3)) == {}
