"""`padd warmup`."""

from padd_cli.stage_command import StageCommand, stage_app
from padd_stages.warmup.options import WarmupInputs, WarmupOptions

COMMAND = StageCommand(
    name="warmup",
    stage="padd_stages.warmup.stage",
    budget="padd_stages.warmup.budget",
    inputs=WarmupInputs,
    options=WarmupOptions,
    help=(
        "Give the student the clusters' router rows and warm its experts up on worked solutions "
        "(Stage I, second half)."
    ),
    reads="a teacher, a pre-trained MoE student, the clusters made for the pair, and D_B of a split artifact.",
    writes="a student: the checkpoint with its router state, and a report of loss and routing before and after.",
    example=(
        "padd warmup --teacher runs/toy/toy/teacher --student runs/toy/toy/student --clusters runs/toy/clusters "
        "--split runs/toy/split --config toy --out runs/toy/warmup"
    ),
    resumable=True,
    distributed=True,
    method_presets=True,
)
app = stage_app(COMMAND)
