"""`padd split-data`."""

from padd_cli.stage_command import StageCommand, stage_app
from padd_stages.split_data.options import SplitInputs, SplitOptions

COMMAND = StageCommand(
    name="split-data",
    stage="padd_stages.split_data.stage",
    inputs=SplitInputs,
    options=SplitOptions,
    help=(
        "Split problems into four subsets that do not overlap: D_A (clustering statistics), D_B (warmup), "
        "D_C (training), D_D (held-out evaluation)."
    ),
    reads="problems with verifiable answers (JSONL, JSON, Parquet, CSV or a hub data set), and benchmarks.",
    writes="a split: a.jsonl to d.jsonl, counts, what was dropped and why.",
    example="padd split-data --problems runs/toy/toy/problems.jsonl --config toy --out runs/toy/split",
)
app = stage_app(COMMAND)
