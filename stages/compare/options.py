"""Inputs and options of `padd compare` (docs/METHOD.md, sections 6 and 7)."""

from pathlib import Path
from typing import Annotated

from padd_stages.lib.options.base import Inputs, Method, Options, Positional
from padd_stages.lib.options.runs import parse_runs
from padd_stages.lib.options.shared import Mode, PublishedSet


class CompareInputs(Inputs):
    """Inputs of compare."""

    runs: Annotated[
        list[str],
        Positional(
            "NAME=DIR[,DIR...], the evaluations of a method's seeds; a NAME may be repeated for more of them. A DIR "
            "alone is a method of one seed, called like the folder."
        ),
    ]

    def paths(self) -> list[Path]:
        """Return the folders of all evaluations."""
        return [folder for folders in parse_runs(self.runs).values() for folder in folders]


class CompareOptions(Options):
    """Options of compare; the seed is that of the bootstrap."""

    against: Annotated[
        str | None, Method("Method that the differences are to; without it there are none.")
    ] = None
    mode: Annotated[
        Mode, Method("Responses that count: greedy, sampled (avg@k), or as each benchmark's protocol says.")
    ] = "headline"
    published: Annotated[
        PublishedSet | None, Method("The paper's own numbers as further rows, marked as such.")
    ] = None
