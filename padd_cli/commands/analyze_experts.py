"""`padd analyze-experts`."""

from padd_cli.stage_command import StageCommand, stage_app
from padd_stages.analyze_experts.options import AnalyzeInputs, AnalyzeOptions

COMMAND = StageCommand(
    name="analyze-experts",
    stage="padd_stages.analyze_experts.stage",
    budget="padd_stages.analyze_experts.budget",
    inputs=AnalyzeInputs,
    options=AnalyzeOptions,
    help=(
        "Measure how a student routes: load, specialisation by subdomain (NMI, ESI), paths, Router-shift between "
        "checkpoints, similarity of experts, agreement with the teacher's clusters; draw the heatmaps. Any MoE that "
        "padd can load will do, trained by padd or not."
    ),
    reads="a student, a split artifact or a file of problems; optionally clusters and their teacher, the student after "
    "Stage I, and the base student.",
    writes="an expert report: figures (PNG) and numbers (JSON, safetensors; docs/METRICS.md).",
    example=(
        "padd analyze-experts --student runs/toy/train --split runs/toy/split --clusters runs/toy/clusters "
        "--teacher runs/toy/toy/teacher --stage1 runs/toy/warmup --base runs/toy/toy/student --config toy "
        "--out runs/toy/experts"
    ),
    distributed=True,
)
app = stage_app(COMMAND)
