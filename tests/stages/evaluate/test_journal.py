"""The journal: whole batches, whatever a kill left behind."""

from pathlib import Path

import pytest

from padd_stages.evaluate.journal import Journal
from padd_stages.evaluate.tasks import Answer

FIRST = {3: Answer("a\nb\u2028\x85", 4, False), 0: Answer("", 0, True)}
SECOND = {1: Answer("c", 1, False)}


def test_batches_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.add(FIRST)
    journal.add(SECOND)
    assert Journal(path).answers == journal.answers == FIRST | SECOND


@pytest.mark.parametrize("kept", [0, 1, 20, -1])
def test_a_line_that_is_half_written_is_cut_off(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path).add(FIRST)
    whole = path.read_bytes()
    Journal(path).add(SECOND)
    path.write_bytes(whole + path.read_bytes()[len(whole) :][:kept])
    journal = Journal(path)
    assert journal.answers == FIRST
    assert path.read_bytes() == whole
    journal.add(SECOND)
    assert Journal(path).answers == FIRST | SECOND


def test_a_first_line_that_is_half_written(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"0": ["a"')
    assert Journal(path).answers == {}
    assert path.read_bytes() == b""
