"""Options of ``padd toy``; its inputs are none: problems and models come with the package."""

from typing import Annotated

from pydantic import Field

from padd_stages.lib.options.base import Inputs, Method, Options

# 900 of each subdomain, nearly all that pre-training has left out.
DEFAULT_PROBLEMS = 6_300


class ToyInputs(Inputs):
    """Inputs of the toy: none."""


class ToyOptions(Options):
    """Options of the toy; the seed is the problems', the models are always the same."""

    problems: Annotated[int, Method("How many problems; pre-training saw none of them.")] = Field(
        DEFAULT_PROBLEMS, ge=1
    )
