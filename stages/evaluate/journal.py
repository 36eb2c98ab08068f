"""Journal of responses on disk, so that an interrupted evaluation generates none of them again."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from padd_stages.evaluate.tasks import Answer


class Journal:
    """Append-only file of one line a batch: a batch is there as a whole or not at all.

    A later run puts the same responses into its remaining batches only if whole batches are missing: the text of a
    response can depend on its batch by rounding.

    Args:
        path: may be there from an interrupted run; a line that a kill left half written is cut off.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[int, Answer] = {}
        whole = path.read_bytes().rpartition(b"\n")[0] if path.is_file() else b""
        for line in whole.splitlines():
            self.answers.update({int(task): Answer(*answer) for task, answer in json.loads(line).items()})
        if path.is_file():
            os.truncate(path, len(whole) + bool(whole))

    def add(self, batch: Mapping[int, Answer]) -> None:
        """Append a batch, by the tasks' positions, and wait until the disk has it."""
        content = {task: [answer.text, answer.tokens, answer.truncated] for task, answer in batch.items()}
        with self.path.open("ab") as handle:
            handle.write(json.dumps(content).encode() + b"\n")
            handle.flush()
            os.fsync(handle.fileno())
        self.answers.update(batch)
