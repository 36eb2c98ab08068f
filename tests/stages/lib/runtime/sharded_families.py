"""A program of two processes: every family sharded against the same model whole, forward, gradients and state.

Called by tests/stages/lib/runtime/test_sharding.py with a folder of models; rank 0 prints one JSON object.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from padd_stages.lib.models.loading import load_model, quiet_transformers
from padd_stages.lib.models.policy import Head, Policy
from padd_stages.lib.models.trainable import Lora, choose_trained, folded_experts, merge_factors
from padd_stages.lib.runtime.sharding import gather, gather_state, shard

LORA = Lora(rank=3, alpha=6.0, targets=("attention", "experts", "routers"))
DEVICE = torch.device("cpu")


def run(policy: Policy, language_model: Any, ids: Tensor) -> tuple[Tensor, int]:
    """A loss that needs body and head, with its backward; and how many MoE layers were seen on the way."""
    adapter, mask, seen = language_model.adapter, torch.ones_like(ids), []

    def compute(hidden: Tensor, head: Head) -> Tensor:
        return torch.nn.functional.linear(hidden, head.weight, head.bias).sin().sum()

    def forward() -> Tensor:
        return policy(ids, mask, mask.bool(), compute)

    if adapter is None:
        loss = forward()
    else:
        with adapter.observe(lambda m, logits, indices: seen.append(m)):
            loss = forward()
    loss.backward()
    return loss.detach(), len(seen)


def biased(language_model: Any) -> None:
    adapter = language_model.adapter
    if adapter is not None:
        generator = torch.Generator().manual_seed(3)
        adapter.set_bias(0.5 * torch.randn(adapter.bias.shape, generator=generator))


def with_lora(language_model: Any) -> None:
    """Factors that do something; B is 0 at first."""
    generator = torch.Generator().manual_seed(4)
    choose_trained(language_model.model, language_model.adapter, LORA)
    with torch.no_grad():
        for parameter in (p for p in language_model.model.parameters() if p.requires_grad):
            values = 0.2 * torch.randn(parameter.shape, generator=generator)
            if not parameter.is_meta:
                parameter.copy_(values)


def compare(folder: Path) -> dict[str, Any]:
    """What the test asserts on, of one model."""
    rank, is_main = dist.get_rank(), dist.get_rank() == 0
    whole = load_model(str(folder))
    parts = load_model(str(folder), device="cpu" if is_main else "meta")
    lora = folder.name.endswith("_lora")
    for language_model in (whole, parts) if lora else ():
        with_lora(language_model)
    policy = Policy(parts.model)
    shard(policy, policy.layers, DEVICE)
    policy.verify()
    share = sum(p.to_local().numel() for p in policy.parameters()) / sum(
        p.numel() for p in policy.parameters()
    )
    batches = torch.randint(2, 53, (2, 5, 7), generator=torch.Generator().manual_seed(5)).unbind()
    biased(whole), biased(parts)
    reference = Policy(whole.model)
    expected = [run(reference, whole, ids)[0] for ids in batches]
    loss, layers = run(policy, parts, batches[rank])
    error = size = 0.0
    for (name, ours), theirs in zip(policy.named_parameters(), reference.parameters(), strict=True):
        if (theirs.grad is None) != (ours.grad is None):
            raise AssertionError(f"{folder.name}: only one of the two has a gradient at {name}")
        if theirs.grad is not None:
            difference = gather(ours.grad) - theirs.grad
            largest = float(theirs.grad.abs().max())
            error, size = max(error, float(difference.abs().max()) / max(largest, 1e-3)), max(size, largest)
    folded = 0.0
    if lora:
        policy.eval(), policy.zero_grad(), reference.zero_grad()
        with folded_experts(parts.model):
            folded = float(run(policy, parts, batches[rank])[0] - loss)
        for language_model in (whole, parts):
            merge_factors(language_model.model)
    state = gather_state(parts.model, keep=is_main)
    expected_state = whole.model.state_dict()
    same = all(torch.equal(state[n], v) for n, v in expected_state.items()) if is_main else state == {}
    return {
        "folded": abs(folded),
        "loss": float((loss - expected[rank]).abs() / expected[rank].abs()),
        "gradient": error,
        "gradient_size": size,
        "share": share,
        "layers_seen": layers,
        "same_state": same,
        "same_types": all(
            a.dtype == b.dtype
            for a, b in zip(parts.model.state_dict().values(), expected_state.values(), strict=True)
        ),
    }


def main() -> None:
    quiet_transformers()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found = {folder.name: compare(folder) for folder in sorted(Path(sys.argv[1]).iterdir())}
    everywhere: list[Any] = [None, None]
    dist.all_gather_object(everywhere, found)
    if dist.get_rank() == 0:
        print(json.dumps(everywhere))
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # torch's connection threads can abort an interpreter that takes itself apart


if __name__ == "__main__":
    main()
