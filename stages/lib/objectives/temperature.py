"""The temperature of Stage II, set by each response's advantage (docs/METHOD.md, section 4)."""

from typing import Literal

import torch
from torch import Tensor

PHI_MIN = 0.25  # docs/METHOD.md, section 4, Stage II

QUARTILES = {"min": 0.0, "p25": 0.25, "p50": 0.5, "p75": 0.75, "max": 1.0}


def phi(
    advantages: Tensor, kappa: float, kind: Literal["inverse", "literal", "fixed"], phi_min: float = PHI_MIN
) -> Tensor:
    """Compute Phi(A), the factor on the temperature.

    Args:
        advantages: of any shape.
        kind: inverse is max(phi_min, 1 - tanh(kappa A)), sharper for A > 0 as the paper's text says; literal is the
            printed 1 + tanh(kappa A), with the same floor; fixed is 1.

    Returns:
        A tensor of the shape of advantages.
    """
    if kind == "fixed":
        return torch.ones_like(advantages)
    if kind not in ("inverse", "literal"):
        raise ValueError(f"kind is {kind!r}, not 'inverse', 'literal' or 'fixed'.")
    slope = torch.tanh(kappa * advantages)
    return (1 - slope if kind == "inverse" else 1 + slope).clamp(min=phi_min)


def temperature_metrics(temperature: Tensor, mask: Tensor) -> dict[str, float]:
    """Compute range and quartiles of the effective temperature tau * Phi(A) where mask is 1.

    Args:
        temperature, mask: of one shape, of a whole batch, since quartiles do not add up.

    Returns:
        temperature/min, p25, p50, p75 and max; empty without any entry.
    """
    ordered = temperature[mask.bool()].sort().values
    last = ordered.numel() - 1
    if last < 0:
        return {}
    return {f"temperature/{name}": float(ordered[round(q * last)]) for name, q in QUARTILES.items()}
