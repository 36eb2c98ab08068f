"""GPUs by name, with what their makers promise, and the share of it that is counted on."""

import re
from dataclasses import dataclass

import torch

from padd_artifacts.errors import UsageError

USABLE = 0.92  # chosen: driver, NCCL's buffers and the allocator's fragments take the rest
COMPUTE_SHARE = 0.35  # chosen: of the promised FLOPs, what training of transformers usually reaches
TRANSFER_SHARE = 0.6  # chosen: of the promised bandwidths
GIB = 1 << 30


@dataclass(frozen=True)
class Rates:
    """What a maker promises of one GPU: dense bf16 FLOP/s, memory and interconnect in bytes/s (one direction)."""

    flops: float
    memory: float
    link: float


# Data sheets of the SXM versions (L40S: PCIe 4.0)
RATES = {
    "A100": Rates(312e12, 2.0e12, 300e9),
    "H100": Rates(989e12, 3.35e12, 450e9),
    "H200": Rates(989e12, 4.8e12, 450e9),
    "B200": Rates(2250e12, 8.0e12, 900e9),
    "L40S": Rates(362e12, 0.86e12, 32e9),
}


@dataclass(frozen=True)
class Work:
    """What one process does: FLOPs of matrix products, bytes read from memory meanwhile, bytes received after it."""

    flops: float = 0.0
    read: float = 0.0
    received: float = 0.0


@dataclass(frozen=True)
class Gpus:
    """GPUs of one machine, one process each."""

    count: int
    name: str
    gigabytes: float

    @property
    def usable_gib(self) -> float:
        """What a process may count on, of one GPU; the GB in the names of GPUs are GiB, nearly."""
        return USABLE * self.gigabytes

    @property
    def rates(self) -> Rates | None:
        """The maker's numbers; None for a name that is not known."""
        return RATES.get(self.name)

    def seconds(self, work: Work) -> float | None:
        """Estimate the seconds that one GPU takes; None where its rates are not known."""
        rates = self.rates
        if rates is None:
            return None
        computing = max(
            work.flops / (COMPUTE_SHARE * rates.flops), work.read / (TRANSFER_SHARE * rates.memory)
        )
        return computing + work.received / (TRANSFER_SHARE * rates.link)


def present_gpus() -> Gpus | None:
    """Return the GPUs of this machine, all taken to be like the first; None if torch sees none."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name(0)
    known = next((known for known in RATES if known in name), name)
    size = torch.cuda.get_device_properties(0).total_memory / GIB
    return Gpus(torch.cuda.device_count(), known, size)


def parse_gpus(text: str) -> Gpus:
    """Parse ``8xH100-80GB``.

    Raises:
        UsageError: it is written in another way.
    """
    match = re.fullmatch(r"(?:(\d+)x)?([A-Za-z0-9]+)-(\d+(?:\.\d+)?)GB", text.strip())
    if match is None or match[1] == "0":
        raise UsageError(
            f"--gpus is '{text}', which does not say how many GPUs of what memory there are; write it as 8xH100-80GB "
            f"(times are estimated for {', '.join(RATES)})."
        )
    return Gpus(int(match[1] or 1), match[2].upper(), float(match[3]))
