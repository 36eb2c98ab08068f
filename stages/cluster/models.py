"""The teacher and the student of a clustering, as they run on texts."""

from dataclasses import dataclass

from torch import Tensor

from padd_stages.cluster.options import ClusterInputs, ClusterOptions
from padd_stages.lib.models.kernels import Kernels
from padd_stages.lib.models.loading import LanguageModel
from padd_stages.lib.models.policy import Policy, run_body
from padd_stages.lib.models.trained import load_frozen
from padd_stages.lib.options.shared import SHARD
from padd_stages.lib.runtime.devices import pick_device
from padd_stages.lib.runtime.processes import Processes


@dataclass(frozen=True)
class FrozenModel:
    """A model that runs on texts; its policy is the root of its forwards where it is sharded."""

    loaded: LanguageModel
    policy: Policy

    def run_body(self, ids: Tensor, mask: Tensor) -> None:
        """Run ids and mask (B, T) up to the last hidden states, for those who listen."""
        self.policy.run(lambda: run_body(self.loaded.model, ids, mask))


def load_student(inputs: ClusterInputs, options: ClusterOptions, processes: Processes) -> FrozenModel | None:
    """Load the student, where there is one; sharded if the processes say so."""
    if inputs.student is None:
        return None
    kernels = Kernels.of(options)
    return FrozenModel(
        *load_frozen(
            inputs.student, processes, options.dtype, shards=processes.shards, moe=True, kernels=kernels
        )
    )


def load_teacher(inputs: ClusterInputs, options: ClusterOptions, processes: Processes) -> FrozenModel | None:
    """Load the teacher where it runs, on texts; sharded with the student, unless --teacher-device says where."""
    if inputs.split is None:
        return None
    named = options.teacher_device
    device = None if named in (None, SHARD) else pick_device(named, "--teacher-device")
    shards = named == SHARD or (named is None and processes.shards)
    kernels = Kernels.of(options)
    return FrozenModel(
        *load_frozen(
            inputs.teacher, processes, options.dtype, shards=shards, device=device, moe=False, kernels=kernels
        )
    )
