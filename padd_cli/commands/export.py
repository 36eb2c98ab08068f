"""`padd export`."""

from padd_cli.stage_command import StageCommand, stage_app
from padd_stages.export.options import ExportInputs, ExportOptions

COMMAND = StageCommand(
    name="export",
    stage="padd_stages.export.stage",
    inputs=ExportInputs,
    options=ExportOptions,
    help=(
        "Write a student as a stock checkpoint for transformers, vLLM and the like: its router bias moves into "
        "ordinary weights, exactly where the family has a place for it, else by a fit that is then measured."
    ),
    reads="a student; a split artifact (D_A) where the bias must be fitted.",
    writes="a checkpoint without anything of padd's own, and report.json.",
    example="padd export --student runs/toy/train --split runs/toy/split --config toy --out runs/toy/export",
)
app = stage_app(COMMAND)
