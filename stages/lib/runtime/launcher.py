"""The environment that a launcher (torchrun, accelerate) sets, read without torch."""

import os
from dataclasses import dataclass

from padd_artifacts.errors import UsageError
from padd_stages.lib.compat.accelerate import DEEPSPEED, FSDP, FSDP_OFFLOAD, FSDP_VERSION


@dataclass(frozen=True)
class Launch:
    """The way a stage is started: its processes, one a GPU, and whether FSDP2 divides what is trained among them."""

    processes: int = 1
    sharded: bool = False

    @classmethod
    def current(cls) -> "Launch":
        """Return the launch of this process.

        Raises:
            UsageError: as `sharding_requested`.
        """
        return cls(process_count(), sharding_requested() and process_count() > 1)


def process_count() -> int:
    """Return the number of processes that the launcher started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Return whether this is the process that writes and reports."""
    return os.environ.get("RANK", "0") == "0"


def sharding_requested() -> bool:
    """Return whether the launcher was configured for FSDP2.

    Raises:
        UsageError: it was configured for a way of sharding that padd does not have.
    """
    asked = _is_set(FSDP)
    for name, refused in {
        "DeepSpeed": _is_set(DEEPSPEED),
        "FSDP1": asked and os.environ.get(FSDP_VERSION, "1") != "2",
        "FSDP with offloaded parameters": asked and _is_set(FSDP_OFFLOAD),
    }.items():
        if refused:
            raise UsageError(
                f"accelerate was started for {name} and padd shards models by FSDP2 without offloading alone, so every "
                "process would hold a whole one; launch with padd's fsdp2.yaml, or multi-gpu.yaml where a whole model "
                "fits (docs/DISTRIBUTED.md)."
            )
    return asked


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() in ("true", "1")
