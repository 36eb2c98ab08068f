"""What a response is graded against."""

import math
from dataclasses import dataclass

from padd_artifacts.errors import PaddError
from padd_stages.lib.grading.extraction import gold_answers


@dataclass(frozen=True)
class Gold:
    """The gold answer of a problem.

    Attributes:
        answers: any of them is right.
        tolerance: how far a number may be off (absolute, as OlympiadBench's ``error``).
        several: a text of ``answers`` holds several answers, joined by commas; all must be given, in any order.
        unit: may stand behind the response's answer.

    Raises:
        PaddError: no answer, an empty one, or a tolerance that is no number from 0 up.
    """

    answers: tuple[str, ...]
    tolerance: float | None = None
    several: bool = False
    unit: str | None = None

    def __post_init__(self) -> None:
        gold_answers(self.answers)
        if self.tolerance is not None and not 0 <= self.tolerance < math.inf:
            raise PaddError(
                f"the gold answer {self.answers[0]!r:.60} has a tolerance of {self.tolerance}, so nothing can be "
                "graded against it; give a number from 0 up, or none."
            )


def as_gold(gold: object) -> Gold:
    """A gold as it is, or made of text, a number, or a list of them (any of them counts).

    Raises:
        PaddError: no answer in it, or a value that is no answer.
    """
    return gold if isinstance(gold, Gold) else Gold(gold_answers(gold))
