"""A model that runs on texts and is not trained, whole or sharded."""

from dataclasses import dataclass
from typing import Any, Protocol, Self

from torch import Tensor

from padd_stages.lib.models.kernels import KernelOptions, Kernels
from padd_stages.lib.models.loading import DtypeName, LanguageModel
from padd_stages.lib.models.policy import Policy, run_body
from padd_stages.lib.models.trained import load_frozen
from padd_stages.lib.runtime.processes import Processes


class FrozenOptions(KernelOptions, Protocol):
    """Options of a stage that runs models on texts."""

    @property
    def dtype(self) -> DtypeName: ...


@dataclass(frozen=True)
class FrozenModel:
    """A model of these processes; its policy is the root of its forwards where it is sharded."""

    loaded: LanguageModel
    policy: Policy
    processes: Processes

    @classmethod
    def load(
        cls,
        name: str,
        options: FrozenOptions,
        processes: Processes,
        *,
        moe: bool,
        shards: bool,
        device: str | None = None,
    ) -> Self:
        """Load a model; arguments and errors as of `load_frozen`."""
        loaded, policy = load_frozen(
            name, processes, options.dtype, shards=shards, device=device, moe=moe, kernels=Kernels.of(options)
        )
        return cls(loaded, policy, processes)

    @property
    def model(self) -> Any:
        """The model of transformers."""
        return self.loaded.model

    def run_body(self, ids: Tensor, mask: Tensor) -> None:
        """Run ids and mask (B, T) up to the last hidden states, for those who listen."""
        self.policy.run(lambda: run_body(self.model, ids, mask))
