"""`padd cluster`."""

from padd_cli.stage_command import StageCommand, stage_app
from padd_stages.cluster.options import ClusterInputs, ClusterOptions

COMMAND = StageCommand(
    name="cluster",
    stage="padd_stages.cluster.stage",
    budget="padd_stages.cluster.budget",
    inputs=ClusterInputs,
    options=ClusterOptions,
    help=(
        "Cluster the teacher's neurons into groups of equal size; with a student and a split, also make its "
        "router rows and target activations (Stage I, first half)."
    ),
    reads="a teacher's weights; optionally a student, and D_A of a split artifact.",
    writes="clusters: assignments and centroids per teacher layer, router rows and targets per MoE layer, quality.",
    example=(
        "padd cluster --teacher runs/toy/toy/teacher --student runs/toy/toy/student --split runs/toy/split "
        "--config toy --out runs/toy/clusters"
    ),
    resumable=True,
    distributed=True,
    method_presets=True,
)
app = stage_app(COMMAND)
