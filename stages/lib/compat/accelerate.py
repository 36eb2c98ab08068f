"""Interfaces of accelerate: the environment variables of its launcher, read without importing it or torch."""

import importlib
import inspect

from padd_stages.lib.compat.probes import Library, Probe

# set by accelerate launch
FSDP, FSDP_VERSION, FSDP_OFFLOAD = "ACCELERATE_USE_FSDP", "FSDP_VERSION", "FSDP_OFFLOAD_PARAMS"
FSDP_RAM = "FSDP_CPU_RAM_EFFICIENT_LOADING"
DEEPSPEED = "ACCELERATE_USE_DEEPSPEED"


def _check_variables() -> None:
    source = inspect.getsource(importlib.import_module("accelerate.utils.launch"))
    missing = [name for name in (FSDP, FSDP_VERSION, FSDP_OFFLOAD, FSDP_RAM, DEEPSPEED) if name not in source]
    if missing:
        raise RuntimeError(f"its launcher does not set {', '.join(missing)}")


LIBRARY = Library(
    "accelerate",
    (
        Probe(
            f"`{FSDP}`, `{FSDP_VERSION}`, `{FSDP_OFFLOAD}`, `{FSDP_RAM}`, `{DEEPSPEED}` in the environment",
            "tell how it was launched",
            _check_variables,
        ),
    ),
)
