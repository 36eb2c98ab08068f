"""`padd eval`."""

from padd_cli.stage_command import StageCommand, stage_app
from padd_stages.evaluate.options import EvaluateInputs, EvaluateOptions

COMMAND = StageCommand(
    name="eval",
    stage="padd_stages.evaluate.stage",
    budget="padd_stages.evaluate.budget",
    inputs=EvaluateInputs,
    options=EvaluateOptions,
    help=(
        "Measure a model's accuracy on benchmarks, or on problems of one's own: greedy Pass@1, avg@k, pass@k and maj@k "
        "with 95 % intervals. With --responses, grade what another engine produced."
    ),
    reads="a model, and benchmarks, a split artifact (its D_D) or a file of problems; or a file of responses.",
    writes=(
        "an evaluation: every response with its extracted answer and verdict, and the table; with --responses, "
        "verdicts.jsonl too."
    ),
    example="padd eval --model runs/toy/train --problems runs/toy/split --config toy --out runs/toy/eval/trained",
    resumable=True,
    distributed=True,
)
app = stage_app(COMMAND)
