"""`padd train`."""

from padd_cli.stage_command import StageCommand, stage_app
from padd_stages.train.options import TrainInputs, TrainOptions

COMMAND = StageCommand(
    name="train",
    stage="padd_stages.train.stage",
    budget="padd_stages.train.budget",
    inputs=TrainInputs,
    options=TrainOptions,
    help=(
        "Train a student on its own samples: online distillation (Stage II), path-regularised GRPO (Stage III), "
        "reward-augmented load balancing (Stage IV), or one of the baselines with --preset."
    ),
    reads="a student (what warmup wrote, or any model), a teacher, and D_C of a split artifact.",
    writes="a student: the checkpoint with its router state, the report, the metrics of every step.",
    example=(
        "padd train --student runs/toy/warmup --teacher runs/toy/toy/teacher --split runs/toy/split "
        "--config toy --out runs/toy/train"
    ),
    resumable=True,
    method_presets=True,
    distributed=True,
)
app = stage_app(COMMAND)
