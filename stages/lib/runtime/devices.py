"""The device to run on."""

import torch

from padd_artifacts.errors import UsageError


def pick_device(name: str, flag: str = "--device") -> str:
    """Resolve a device name: ``auto`` is the first GPU if there is one, else the CPU.

    Raises:
        UsageError: torch does not know the device, or it is not there.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).splitlines() or [""])[0][:120]
        raise UsageError(f"{flag} {name} cannot be used here ({reason}); take cpu or auto.") from error
    return name
