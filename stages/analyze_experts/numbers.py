"""Routing analysis as JSON numbers: load, specialisation and chance levels, per layer and overall."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from padd_stages.lib.measures.load import Load, expert_load
from padd_stages.lib.measures.routing import RoutingSums
from padd_stages.lib.measures.specialisation import (
    baseline,
    baseline_json,
    esi,
    json_number,
    nmi,
    shuffled_problems,
    shuffled_tokens,
)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ExpertNumbers:
    """Numbers of a model, per MoE layer.

    Attributes:
        nmi, esi: (L,).
        nmi_tokens, esi_tokens: (draws, L) with the tokens' labels shuffled.
        nmi_problems, esi_problems: (draws, L) with the problems' labels shuffled.
        load: of all layers.
        token_entropy: (L,) mean routing entropy of a token over log N.
    """

    nmi: Floats
    esi: Floats
    nmi_tokens: Floats
    esi_tokens: Floats
    nmi_problems: Floats
    esi_problems: Floats
    load: Load
    token_entropy: Floats


def expert_numbers(sums: RoutingSums, *, permutations: int, seed: int) -> ExpertNumbers:
    """Compute everything that follows from counts alone (docs/METHOD.md, section 8)."""
    joint = sums.joint
    tokens = shuffled_tokens(joint, draws=permutations, seed=seed)
    problems = shuffled_problems(sums.slots, sums.labels, len(sums.tokens), draws=permutations, seed=seed)
    return ExpertNumbers(
        nmi=nmi(joint),
        esi=esi(joint),
        nmi_tokens=nmi(tokens),
        esi_tokens=esi(tokens),
        nmi_problems=nmi(problems),
        esi_problems=esi(problems),
        load=expert_load(joint.sum(axis=-1)),
        token_entropy=sums.mean_entropy,
    )


def as_json(numbers: ExpertNumbers, layer_indices: Sequence[int]) -> dict[str, Any]:
    """Return overall numbers (means over layers) and one object a layer; undefined ones are null.

    Args:
        layer_indices: (L,) decoder layer of each MoE layer.
    """
    overall: dict[str, Any] = {
        name: json_number(float(np.mean(getattr(numbers, name)))) for name in ("nmi", "esi", "token_entropy")
    }
    for name in ("nmi", "esi"):
        for unit in ("tokens", "problems"):
            draws = getattr(numbers, f"{name}_{unit}").mean(axis=1)
            overall[f"{name}_shuffled_{unit}"] = baseline_json(baseline(draws))
    load = numbers.load
    return overall | {
        "load_entropy": float(load.entropy.mean()),
        "gini": float(load.gini.mean()),
        "max_vio": float(load.max_vio.mean()),
        "max_vio_worst_layer": float(load.max_vio.max()),
        "dead_experts": int(load.dead.sum()),
        "layers": [_layer_json(numbers, m, layer) for m, layer in enumerate(layer_indices)],
    }


def _layer_json(numbers: ExpertNumbers, m: int, decoder_layer: int) -> dict[str, Any]:
    load = numbers.load
    return {
        "moe": m,
        "decoder_layer": decoder_layer,
        "nmi": json_number(float(numbers.nmi[m])),
        "nmi_shuffled_tokens": baseline_json(baseline(numbers.nmi_tokens[:, m])),
        "nmi_shuffled_problems": baseline_json(baseline(numbers.nmi_problems[:, m])),
        "esi": json_number(float(numbers.esi[m])),
        "esi_shuffled_tokens": baseline_json(baseline(numbers.esi_tokens[:, m])),
        "esi_shuffled_problems": baseline_json(baseline(numbers.esi_problems[:, m])),
        "token_entropy": float(numbers.token_entropy[m]),
        "load_entropy": float(load.entropy[m]),
        "gini": float(load.gini[m]),
        "max_vio": float(load.max_vio[m]),
        "dead": np.flatnonzero(load.dead[m]).tolist(),
        "share": load.share[m].tolist(),
    }
