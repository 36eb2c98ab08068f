"""Inputs and options of `padd export`."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from padd_stages.lib.options.base import Artifacts, Inputs, Method, Options, Run
from padd_stages.lib.options.shared import DEFAULT_SYSTEM, Device, Dtype, SystemPrompt, Thinking


class ExportInputs(Inputs):
    """Inputs of export."""

    student: Annotated[str, Artifacts("The student to export, with its router bias.")]
    split: Annotated[
        Path | None,
        Artifacts("A split artifact; its D_A is read where the family has no place for the bias."),
    ] = None


class ExportOptions(Options):
    """Options of an export."""

    max_tokens: Annotated[int, Method("Tokens of D_A that are read; an eighth of the texts is held out.")] = (
        Field(65_536, ge=1)
    )
    max_length: Annotated[int, Method("Longest text, in tokens; the rest of a longer one is not read.")] = (
        Field(4096, ge=2)
    )
    ridge_penalty: Annotated[
        float, Method("Ridge penalty as a share of the mean square of the router's inputs.")
    ] = Field(1e-4, gt=0)
    system: SystemPrompt = DEFAULT_SYSTEM
    thinking: Thinking = False
    dtype: Dtype = "auto"
    batch_tokens: Annotated[int, Run("Padded tokens in one forward pass.")] = Field(8192, ge=1)
    device: Device = "auto"
