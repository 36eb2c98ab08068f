"""`padd analyze-experts`."""

from padd_cli.stage_command import StageCommand, stage_app
from padd_stages.options.analyze_experts import AnalyzeInputs, AnalyzeOptions

COMMAND = StageCommand(
    name="analyze-experts",
    stage="padd_stages.analyze_experts",
    inputs=AnalyzeInputs,
    options=AnalyzeOptions,
    help=(
        "Measure how a student routes: load, specialisation by subdomain (NMI, ESI), agreement with the "
        "teacher's clusters; draw the heatmaps."
    ),
    reads="a student, a split artifact; optionally clusters, the student after Stage I, and the base student.",
    writes="an expert report: figures (PNG) and numbers (JSON).",
    example=(
        "padd analyze-experts --student runs/toy/train --split runs/toy/split --clusters runs/toy/clusters "
        "--stage1 runs/toy/warmup --base runs/toy/toy/student --config toy --out runs/toy/experts"
    ),
)
app = stage_app(COMMAND)
