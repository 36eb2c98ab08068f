"""Inputs and options of `padd report`."""

from pathlib import Path
from typing import Annotated

from padd_stages.lib.options.base import Inputs, Method, Options, Positional
from padd_stages.lib.options.runs import parse_runs
from padd_stages.lib.options.shared import PublishedSet

PAGE_FILE = "index.html"  # of the artifact


class ReportInputs(Inputs):
    """Inputs of report: the runs that the page shows."""

    runs: Annotated[
        list[str],
        Positional(
            "NAME=DIR[,DIR...]: folders of a method's runs, or single artifacts of them; a NAME may be repeated for "
            "more. A DIR alone is a method called like the folder."
        ),
    ]

    def paths(self) -> list[Path]:
        """Return the folders of all runs."""
        return [folder for folders in parse_runs(self.runs).values() for folder in folders]


class ReportOptions(Options):
    """Options of report; the seed is that of the bootstrap."""

    against: Annotated[
        str | None,
        Method("Method that differences are to; by default the first of several, the base student of one."),
    ] = None
    published: Annotated[
        PublishedSet | None, Method("The paper's own numbers as further rows, marked as such.")
    ] = None
