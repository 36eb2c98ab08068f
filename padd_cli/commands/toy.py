"""`padd toy unpack` and `padd toy build`."""

import typer

from padd_cli.stage_command import StageCommand, add_stage
from padd_stages.toy.options import ToyInputs, ToyOptions

UNPACK = StageCommand(
    name="toy",
    stage="padd_stages.toy.stage_unpack",
    inputs=ToyInputs,
    options=ToyOptions,
    help="Write the embedded toy problems, teacher and student where the other commands can read them.",
    reads="nothing but the package.",
    writes="a toy: problems.jsonl, teacher/ (dense) and student/ (mixture of experts).",
    example="padd toy unpack --out runs/toy/toy",
)
BUILD = StageCommand(
    name="toy",
    stage="padd_stages.toy.stage_build",
    inputs=ToyInputs,
    options=ToyOptions,
    help="Train the toy teacher and student from nothing, as the embedded ones were (about half an hour).",
    reads="nothing.",
    writes="a toy: problems.jsonl, teacher/, student/, and toy.json with the measured accuracies.",
    example="padd toy build --out runs/toy-built",
)
COMMAND = UNPACK
app = typer.Typer(add_completion=False, rich_markup_mode="rich", no_args_is_help=True)
add_stage(app, UNPACK, "unpack")
add_stage(app, BUILD, "build")
