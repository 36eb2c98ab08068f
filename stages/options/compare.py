"""Options of `padd compare` (docs/METHOD.md, sections 6 and 7)."""

from typing import Annotated, Literal

from padd_stages.options.base import Method, Options

Mode = Literal["headline", "greedy", "sampled"]
PublishedSet = Literal["qwen", "deepseek", "ablation"]


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
