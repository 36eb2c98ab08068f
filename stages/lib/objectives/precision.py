"""The types that objectives compute in."""

from contextlib import AbstractContextManager

import torch


def no_autocast(device: torch.device) -> AbstractContextManager:
    """Return a context without autocast, on devices that have none (meta) too."""
    kind = device.type if torch.amp.is_autocast_available(device.type) else "cpu"
    return torch.autocast(kind, enabled=False)
