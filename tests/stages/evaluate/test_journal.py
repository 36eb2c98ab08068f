"""The journal: whole batches, whatever a kill left behind."""

from pathlib import Path

import pytest

from padd_stages.evaluate.journal import Journal
from padd_stages.evaluate.tasks import Answer

FIRST = {3: Answer("a\nb\u2028\x85", 4, False), 0: Answer("", 0, True)}
SECOND = {1: Answer("c", 1, False)}


def test_batches_are_read_back(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.add(FIRST)
    journal.add(SECOND)
    assert Journal(tmp_path).answers == journal.answers == FIRST | SECOND


def test_other_processes_answers_are_read_too_and_their_files_left_alone(tmp_path: Path) -> None:
    Journal(tmp_path, rank=1).add(SECOND)
    other = tmp_path / "journal-1.jsonl"
    other.write_bytes(other.read_bytes() + b'{"7": ["it is wri')
    before = other.read_bytes()
    journal = Journal(tmp_path)
    journal.add(FIRST)
    assert journal.names == {"journal.jsonl", "journal-1.jsonl"}
    assert journal.answers == FIRST | SECOND
    assert other.read_bytes() == before
    assert Journal(tmp_path, rank=1).answers == FIRST | SECOND


@pytest.mark.parametrize("kept", [0, 1, 20, -1])
def test_a_line_that_is_half_written_is_cut_off(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(tmp_path).add(FIRST)
    whole = path.read_bytes()
    Journal(tmp_path).add(SECOND)
    path.write_bytes(whole + path.read_bytes()[len(whole) :][:kept])
    journal = Journal(tmp_path)
    assert journal.answers == FIRST
    assert path.read_bytes() == whole
    journal.add(SECOND)
    assert Journal(tmp_path).answers == FIRST | SECOND


def test_a_first_line_that_is_half_written(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"0": ["a"')
    assert Journal(tmp_path).answers == {}
    assert path.read_bytes() == b""
