"""Forwards of experts without a gate, which no family of the other tests has."""

from types import SimpleNamespace

import torch
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHExperts

from padd_stages.lib.models.experts import run_all, run_top_k


def test_the_grouped_kernel_and_all_experts_in_turn_agree_on_experts_without_a_gate():
    torch.manual_seed(0)
    config = SimpleNamespace(
        n_routed_experts=5,
        hidden_size=8,
        moe_intermediate_size=12,
        moe_latent_size=None,
        mlp_hidden_act="relu2",
        _experts_implementation="eager",
    )
    experts = NemotronHExperts(config)
    for parameter in experts.parameters():
        torch.nn.init.normal_(parameter)
    hidden, weights = torch.randn(7, 8), torch.rand(7, 2)
    indices = torch.stack([torch.randperm(5)[:2] for _ in range(7)])
    out, activations = run_top_k(experts, hidden, indices, weights)
    every_out, every = run_all(experts, hidden, torch.zeros(7, 5).scatter(1, indices, weights))
    torch.testing.assert_close(out, every_out)
    torch.testing.assert_close(activations, every.gather(1, indices))
    torch.testing.assert_close(out, experts(hidden, indices, weights))
