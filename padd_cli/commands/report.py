"""`padd report`."""

from padd_cli.stage_command import StageCommand, stage_app
from padd_stages.report.options import PAGE_FILE, ReportInputs, ReportOptions

COMMAND = StageCommand(
    name="report",
    stage="padd_stages.report.stage",
    inputs=ReportInputs,
    options=ReportOptions,
    help=(
        "Show a run, or several beside each other, on one HTML page that needs no network: accuracies, "
        "Stage I, training, routing, samples, and where all of it came from."
    ),
    reads=(
        "folders of runs, or their artifacts: students, evaluations, expert reports; what belongs together is found by "
        "the digests of their parents."
    ),
    writes="a report: index.html, its numbers as report.json, its figures as PNG.",
    example="padd report GRPO=runs/grpo-0,runs/grpo-1 PADD=runs/padd-0,runs/padd-1 --out runs/report",
    page=PAGE_FILE,
)
app = stage_app(COMMAND)
