"""Policy losses, their gradients and clip ratios against TRL's own, on the same tensors in fp64.

TRL's losses are methods of its trainers that take the log-probabilities from a model; here the method is called on a
bare object whose "model" hands given log-probabilities over.
"""

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from padd_stages.lib.objectives.policy import (
    CLIP_RANGE,
    LossKind,
    loss_normalizer,
    policy_loss,
    policy_metrics,
)
from padd_stages.lib.objectives.reference import reference_kl

trl = pytest.importorskip("trl", reason="TRL is the reference here: pip install -e .[dev]")

B, T, LONGEST = 6, 5, 9
KINDS: tuple[LossKind, ...] = ("grpo", "dapo", "dr_grpo", "gspo", "gmpo")
# gspo's own range is hit by every response of so small a batch: a wider one leaves some of them free
RANGES = CLIP_RANGE | {"gspo": (0.05, 0.08), "grpo": (0.2, 0.28)}
LENGTHS = torch.tensor([5, 3, 2, 4, 1, 5])


def batch(seed: int) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)

    def logprobs() -> torch.Tensor:
        return -2 + 0.4 * torch.randn(B, T, generator=g, dtype=torch.float64)

    return {
        "new": logprobs().requires_grad_(),
        "old": logprobs(),
        "reference": logprobs(),
        "advantages": torch.tensor([1.3, -0.7, 0.0, -1.9, 0.4, 2.2], dtype=torch.float64),
        "mask": (torch.arange(T)[None] < LENGTHS[:, None]).long(),
    }


def trl_loss(kind: LossKind, data: dict[str, torch.Tensor], beta: float = 0.0) -> tuple[torch.Tensor, Any]:
    """TRL's loss of one batch without accumulation, and the metrics that it logs."""
    from trl import GRPOTrainer
    from trl.experimental.gmpo import GMPOTrainer

    low, high = RANGES[kind]
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (data["new"], torch.zeros(B, T), None),
        _metrics={"train": defaultdict(list)},
        _entropy_bonus_enabled=False,
        accelerator=SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x),
        args=SimpleNamespace(delta=None, steps_per_generation=1, use_bias_correction_kl=False),
        aux_loss_enabled=False,
        beta=beta,
        current_gradient_accumulation_steps=1,
        epsilon_high=high,
        epsilon_low=low,
        importance_sampling_level="sequence" if kind == "gspo" else "token",
        loss_type="grpo" if kind == "gspo" else kind,  # GSPO in TRL is grpo at the level of sequences
        max_completion_length=LONGEST,
        model=SimpleNamespace(training=True),
        off_policy_mask_threshold=None,
        top_entropy_quantile=1.0,
        use_vllm=False,
    )
    inputs = {
        "prompt_ids": torch.zeros(B, 2, dtype=torch.long),
        "prompt_mask": torch.ones(B, 2, dtype=torch.long),
        "completion_ids": torch.zeros(B, T, dtype=torch.long),
        "completion_mask": data["mask"],
        "advantages": data["advantages"],
        "old_per_token_logps": data["old"],
        "ref_per_token_logps": data["reference"],
        "num_items_in_batch": data["mask"].sum(),
    }
    owner: Any = GMPOTrainer if kind == "gmpo" else GRPOTrainer
    return owner._compute_loss(trainer, None, inputs), trainer._metrics["train"]


def our_loss(kind: LossKind, data: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
    low, high = RANGES[kind]
    tokens = int(data["mask"].sum())
    normalizer = loss_normalizer(kind, responses=B, tokens=tokens, max_completion_length=LONGEST)
    loss, sums = policy_loss(
        data["new"], data["old"], data["advantages"], data["mask"], kind=kind, eps_low=low, eps_high=high,
        normalizer=normalizer, max_completion_length=LONGEST,
    )  # fmt: skip
    return loss, policy_metrics(sums)


def assert_same(ours: torch.Tensor, theirs: torch.Tensor, new: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    (grad,) = torch.autograd.grad(ours, new, retain_graph=True)
    (expected,) = torch.autograd.grad(theirs, new)
    torch.testing.assert_close(grad, expected, atol=1e-12, rtol=0)
    assert float(expected.abs().max()) > 1e-3


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradient(kind: LossKind, seed: int) -> None:
    data = batch(seed)
    ours, theirs = our_loss(kind, data)[0], trl_loss(kind, data)[0]
    assert_same(ours, theirs, data["new"])


@pytest.mark.parametrize("kind", KINDS)
def test_clip_ratios_have_its_names_and_values(kind: LossKind) -> None:
    data = batch(0)
    report, theirs = our_loss(kind, data)[1], trl_loss(kind, data)[1]
    for name in ("clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean"):
        assert report[name] == pytest.approx(theirs[name][0], abs=1e-6), name
    assert report["clip_ratio/region_mean"] > 0


def test_reference_kl() -> None:
    """TRL divides the KL as it divides the policy loss; ours is a mean over tokens, which is its dapo."""
    data, tokens = batch(3), int(LENGTHS.sum())
    kl, sums = reference_kl(data["new"], data["reference"], data["mask"], normalizer=tokens)
    theirs, metrics = trl_loss("dapo", data, beta=0.3)
    assert_same(our_loss("dapo", data)[0] + 0.3 * kl, theirs, data["new"])
    assert metrics["kl"][0] == pytest.approx(float(sums["sum/reference_kl"]) / tokens, rel=1e-6)
