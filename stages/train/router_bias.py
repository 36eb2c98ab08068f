"""Stage IV after a rollout's last update: update of the router biases by load and quality.

The formula is in padd_stages.lib.objectives.balance; here are its inputs, summed over the processes.
"""

from typing import Any

import torch
from torch import Tensor

from padd_stages.lib.measures.load import expert_load
from padd_stages.lib.models.loading import LanguageModel
from padd_stages.lib.objectives.balance import advantage_sums, routed_slots, update_bias
from padd_stages.lib.objectives.temperature import phi, temperature_metrics
from padd_stages.lib.runtime.processes import Processes
from padd_stages.train.old_policy import OldPass
from padd_stages.train.options import TrainOptions


def move_bias(
    student: LanguageModel, passes: list[OldPass], options: TrainOptions, processes: Processes
) -> tuple[dict[str, float], dict[str, Any]]:
    """Update the adapter's bias (L, N) and the experts' mean advantages, counted in the old policy's forward.

    Counts and sums are of all processes, so the bias stays the same in every one.

    Load is measured for every MoE student; without eta and gamma the bias stays where it is.

    Returns:
        Metrics, and for routing.jsonl the load's measures layer by layer, (L,) each; nothing for a dense student.
    """
    adapter = student.adapter
    if adapter is None or student.ema is None:
        return {}, {}
    counts = torch.zeros(adapter.num_layers, adapter.num_experts)
    quality = torch.zeros_like(counts)
    for old in passes:
        assert old.routing is not None
        indices = old.routing.indices  # on the host
        advantages = old.advantages[old.batch.rows].cpu()
        mask = torch.ones_like(advantages, dtype=torch.bool)
        counts += routed_slots(indices, mask, adapter.num_experts).float()
        quality += advantage_sums(indices, advantages, mask, adapter.num_experts).float()
    counts = processes.sum(counts)
    bias, ema, metrics = update_bias(
        adapter.bias.cpu(),
        student.ema,
        counts,
        processes.sum(quality),
        eta=options.eta,
        gamma=options.gamma,
        ema_rate=options.ema_rate,
        b_max=options.bias_max,
        sign=options.balance_sign,
    )
    if options.eta > 0 or options.gamma > 0:
        adapter.set_bias(bias)
        student.ema = ema
    load = expert_load(counts.numpy())
    dead = load.dead.sum(axis=1)
    metrics |= {
        "load/entropy": float(load.entropy.mean()),
        "load/max_vio": float(load.max_vio.mean()),
        "load/dead": float(dead.sum()),
    }
    layers = {"load_entropy": load.entropy, "max_vio": load.max_vio, "dead": dead}
    return metrics, {name: values.round(6).tolist() for name, values in layers.items()}


def temperature_spread(advantages: Tensor, options: TrainOptions) -> dict[str, float]:
    """Compute the quartiles over responses of Stage II's temperature, from their advantages (B,)."""
    temperature = options.tau * phi(advantages, options.kappa, options.phi, options.phi_min)
    return temperature_metrics(temperature, torch.ones_like(temperature))
