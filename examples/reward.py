"""A reward of one's own: how much of the worked solution a response goes through.

    padd train --config toy --student runs/toy/toy/student --teacher runs/toy/toy/teacher \
        --split runs/toy/split --reward accuracy --reward examples/reward.py:steps_shown \
        --reward-weights 1 --reward-weights 0.2 --out runs/shown

Naming any reward replaces the default ones, so `accuracy` is named too. The signature is TRL's.
"""

import re
from typing import Any

NUMBER = re.compile(r"\d+(?:\.\d+)?")


def steps_shown(
    completions: list[str], solution: list[str | None], truncated: list[bool], **columns: Any
) -> list[float | None]:
    """Share of the worked solution's numbers that stand in the response, in [0, 1].

    Every column of the problems comes as a keyword with one value a response; those that are not
    needed end in ``columns``. None means that the reward does not apply, here to a problem without
    a worked solution; such a response enters no mean. A response that was cut off gets 0.
    """
    return [
        _share(text, worked, cut) for text, worked, cut in zip(completions, solution, truncated, strict=True)
    ]


def _share(text: str, worked: str | None, cut: bool) -> float | None:
    wanted = set(NUMBER.findall(worked or ""))
    if not wanted:
        return None
    return 0.0 if cut else len(wanted & set(NUMBER.findall(text))) / len(wanted)
