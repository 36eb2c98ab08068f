"""`padd compare`."""

from padd_cli.stage_command import StageCommand, stage_app
from padd_stages.compare.options import CompareInputs, CompareOptions

COMMAND = StageCommand(
    name="compare",
    stage="padd_stages.compare.stage",
    inputs=CompareInputs,
    options=CompareOptions,
    help=(
        "Compare methods over seeds and benchmarks: accuracies with 95 % intervals, differences to one of them, the "
        "paper's numbers beside them."
    ),
    reads="evaluations that padd eval wrote, of the same problems.",
    writes="with --out a comparison: report.json, table.md, table.csv and accuracy.png; else nothing.",
    example="padd compare GRPO=runs/grpo-0,runs/grpo-1 PADD=runs/padd-0,runs/padd-1 --against GRPO --out runs/table",
    preview="comparison",
)
app = stage_app(COMMAND)
