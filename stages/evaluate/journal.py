"""Journal of an evaluation's responses, so that an interrupted one generates none of them again."""

from collections.abc import Mapping
from pathlib import Path

from padd_stages.evaluate.tasks import Answer
from padd_stages.lib.runtime import journal


class Journal:
    """Responses by the tasks' positions; a batch is there as a whole or not at all.

    A later run puts the same responses into its remaining batches only if whole batches are missing: the text of a
    response can depend on its batch by rounding.
    """

    def __init__(self, path: Path) -> None:
        """Read what an interrupted run has left at ``path``."""
        self._journal = journal.Journal(path)
        self.answers: dict[int, Answer] = {}
        for batch in self._journal.values:
            self.answers.update({int(task): Answer(*answer) for task, answer in batch.items()})

    def add(self, batch: Mapping[int, Answer]) -> None:
        """Append a batch, by the tasks' positions, and wait until the disk has it."""
        self._journal.add(
            {task: [answer.text, answer.tokens, answer.truncated] for task, answer in batch.items()}
        )
        self.answers.update(batch)
