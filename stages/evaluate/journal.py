"""Journals of an evaluation's responses, so that an interrupted one generates none of them again."""

from collections.abc import Mapping
from pathlib import Path

from padd_stages.evaluate.tasks import Answer
from padd_stages.lib.runtime import journal


class Journal:
    """Responses by the tasks' positions, in a file for each process; a batch is there as a whole or not at all.

    A later run puts the same responses into its remaining batches only if whole batches are missing: the text of a
    response can depend on its batch by rounding.

    Attributes:
        answers: what an interrupted run has left, of all its processes, and what this one has added since.
        names: of the files.
    """

    def __init__(self, folder: Path, rank: int = 0) -> None:
        """Read what an interrupted run has left in ``folder``."""
        own = f"journal-{rank}.jsonl" if rank else "journal.jsonl"
        self._journal = journal.Journal(folder / own)
        self.answers: dict[int, Answer] = {}
        paths = sorted(folder.glob("journal*.jsonl"))
        self.names = {own, *(path.name for path in paths)}
        for path in paths:
            for batch in journal.read_journal(path):
                self.answers.update({int(task): Answer(*answer) for task, answer in batch.items()})

    def add(self, batch: Mapping[int, Answer]) -> None:
        """Append a batch, by the tasks' positions, and wait until the disk has it."""
        self._journal.add(
            {task: [answer.text, answer.tokens, answer.truncated] for task, answer in batch.items()}
        )
        self.answers.update(batch)
