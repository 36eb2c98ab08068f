"""`padd eval`."""

from padd_cli.stage_command import StageCommand, stage_app
from padd_stages.options.evaluate import EvaluateInputs, EvaluateOptions

COMMAND = StageCommand(
    name="eval",
    stage="padd_stages.evaluate",
    inputs=EvaluateInputs,
    options=EvaluateOptions,
    help="Measure a model's accuracy on problems with verifiable answers, greedy and sampled, with 95 % intervals.",
    reads="a model, and a split artifact (its D_D) or a file of problems.",
    writes="an evaluation: every response with its extracted answer and verdict, and the table.",
    example="padd eval --model runs/toy/train --problems runs/toy/split --config toy --out runs/toy/eval/trained",
)
app = stage_app(COMMAND)
