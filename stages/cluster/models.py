"""The teacher and the student of a clustering, as they run on texts."""

from padd_stages.cluster.options import ClusterInputs, ClusterOptions
from padd_stages.lib.models.frozen import FrozenModel
from padd_stages.lib.options.shared import SHARD
from padd_stages.lib.runtime.devices import pick_device
from padd_stages.lib.runtime.processes import Processes


def load_student(inputs: ClusterInputs, options: ClusterOptions, processes: Processes) -> FrozenModel | None:
    """Load the student, where there is one; sharded if the processes say so."""
    if inputs.student is None:
        return None
    return FrozenModel.load(inputs.student, options, processes, moe=True, shards=processes.shards)


def load_teacher(inputs: ClusterInputs, options: ClusterOptions, processes: Processes) -> FrozenModel | None:
    """Load the teacher where it runs, on texts; sharded with the student, unless --teacher-device says where."""
    if inputs.split is None:
        return None
    named = options.teacher_device
    device = None if named in (None, SHARD) else pick_device(named, "--teacher-device")
    shards = named == SHARD or (named is None and processes.shards)
    return FrozenModel.load(inputs.teacher, options, processes, moe=False, shards=shards, device=device)
