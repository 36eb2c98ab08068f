"""Implementations of attention and experts that are named by options."""

import pytest
import torch

from padd_artifacts.errors import UsageError
from padd_stages.lib.compat.transformers import attention_of
from padd_stages.lib.models.kernels import Kernels
from padd_stages.lib.models.loading import load_model

IDS = torch.arange(5, 17)[None]


def logits(name, kernels=None):
    loaded = load_model(str(name), kernels=kernels)
    with torch.no_grad():
        return loaded.model, loaded.model(IDS).logits


def test_named_kernels_are_used_and_compute_the_same(pico):
    model, found = logits(pico.student, Kernels("eager", "eager"))
    _, wanted = logits(pico.student)
    assert (attention_of(model), model.get_experts_implementation()[""]) == ("eager", "eager")
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_a_dense_model_has_no_experts_to_set(pico):
    model, _ = logits(pico.teacher, Kernels("eager", "no-such-kernel"))
    assert attention_of(model) == "eager"


@pytest.mark.parametrize(
    "kernels", [Kernels(attention="flash_attention_9"), Kernels(experts="no-such-kernel")]
)
def test_what_there_is_not_is_refused_with_its_option(pico, kernels):
    with pytest.raises(UsageError, match=r"implementation .* cannot be used"):
        load_model(str(pico.student), kernels=kernels)
