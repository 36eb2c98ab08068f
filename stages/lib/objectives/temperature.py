"""Metrics of the temperatures of Stage II (docs/METHOD.md, section 4)."""

from torch import Tensor

QUARTILES = {"min": 0.0, "p25": 0.25, "p50": 0.5, "p75": 0.75, "max": 1.0}


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
