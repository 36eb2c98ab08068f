"""Options of `padd compare` (docs/METHOD.md, sections 6 and 7)."""

from typing import Annotated

from padd_stages.lib.options.base import Method, Options
from padd_stages.lib.options.shared import Mode, PublishedSet


class CompareOptions(Options):
    """What is compared with what; the seed is that of the bootstrap."""

    against: Annotated[
        str | None, Method("Method that the differences are to; without it there are none.")
    ] = None
    mode: Annotated[
        Mode, Method("Responses that count: greedy, sampled (avg@k), or as each benchmark's protocol says.")
    ] = "headline"
    published: Annotated[
        PublishedSet | None, Method("The paper's own numbers as further rows, marked as such.")
    ] = None
