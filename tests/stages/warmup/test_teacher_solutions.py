"""The teacher's solutions: as many as are read, each sampled once however often the run is interrupted."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from vllm_server import VllmServer

from padd_artifacts.artifact import open_artifact
from padd_stages.lib.runtime.reporter import SILENT
from padd_stages.lib.sampling.responses import Response
from padd_stages.lib.sampling.vllm import VllmEngine
from padd_stages.warmup import teacher_solutions as module

RIGHT = (5, 6)  # token ids of a response that the grader of these tests accepts


class Writer:
    """What is asked of the artifact's writer."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.kept = folder, 0

    def path(self, name: str) -> Path:
        return self.folder / name

    def keep(self) -> None:
        self.kept += 1


@pytest.fixture
def solve(bench, pico, tmp_path, monkeypatch):
    """Returns the ids of the rows found and of those sampled; every third problem is solved."""
    rows = open_artifact(pico.split, "split").jsonl("b.jsonl")
    sampled: list[str] = []

    def respond(_policy: Any, _model: Any, requests: list[Any], *_: Any, **__: Any) -> list[Response]:
        keys = [request.key[-1] for request in requests]
        sampled.extend(keys)
        order = [str(row["id"]) for row in rows]
        return [Response(RIGHT if order.index(key) % 3 == 0 else (7,), False) for key in keys]

    def grade(pairs: list[tuple[str, str]]) -> list[Any]:
        right = bench.teacher.language_model.tokenizer.decode(RIGHT, skip_special_tokens=True)
        return [SimpleNamespace(correct=text == right) for text, _ in pairs]

    monkeypatch.setattr(module, "respond", respond)
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 4)

    def run(wanted: int, fits: Any = lambda row: True) -> tuple[list[str], list[str]]:
        sampled.clear()
        found = module.teacher_solutions(
            rows,
            fits,
            wanted,
            bench.teacher,
            SimpleNamespace(grade=grade),  # type: ignore[arg-type]
            Writer(tmp_path),  # type: ignore[arg-type]
            bench.processes,
            bench.options(),
            SILENT,
        )
        return [str(row["id"]) for row in found], list(sampled)

    run.rows = [str(row["id"]) for row in rows]  # type: ignore[attr-defined]
    return run


def test_a_server_that_serves_the_teacher_samples_as_it_does(bench, pico, tmp_path):
    rows = open_artifact(pico.split, "split").jsonl("b.jsonl")[:6]
    every = SimpleNamespace(
        grade=lambda pairs: [SimpleNamespace(correct=True, text=text) for text, _ in pairs]
    )
    # with random weights few responses end: those that have, are compared
    bench.teacher.language_model.model.generation_config.eos_token_id = list(range(0, 60, 2))
    found = {}
    with VllmServer(pico.teacher) as server:
        for name, engine in (("own", None), ("server", VllmEngine(server.url, timeout=30.0))):
            (tmp_path / name).mkdir()
            found[name] = module.teacher_solutions(
                rows,
                lambda _: True,
                6,
                bench.teacher,
                every,  # type: ignore[arg-type]
                Writer(tmp_path / name),  # type: ignore[arg-type]
                bench.processes,
                bench.options(),
                SILENT,
                engine,
            )
        assert server.calls["/v1/completions"] == 6
    assert found["own"] == found["server"]
    assert len(found["own"]) > 2


def test_no_more_are_sampled_than_are_read(solve):
    found, sampled = solve(2)
    assert 2 <= len(found) < 6
    assert len(sampled) % 4 == 0
    assert len(sampled) < len(solve.rows)
    assert found == [name for name in solve.rows[::3] if name in sampled], "in the order of the data"


def test_all_are_sampled_where_all_are_needed(solve):
    found, sampled = solve(10**6)
    assert sorted(sampled) == sorted(solve.rows)
    assert found == solve.rows[::3]


def test_solutions_that_are_too_long_do_not_count(solve):
    found, sampled = solve(2, lambda row: False)
    assert found == []
    assert len(sampled) == len(solve.rows)


def test_an_interrupted_run_samples_none_again(solve, tmp_path):
    whole, all_sampled = solve(10**6)
    journal = tmp_path / module.JOURNAL
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:2]) + lines[2][: len(lines[2]) // 2])  # killed while it wrote the third
    assert [len(json.loads(line)) for line in lines[:2]] == [4, 4]
    found, sampled = solve(10**6)
    assert found == whole
    assert sampled == all_sampled[8:]
    assert journal.read_text().splitlines(keepends=True) == lines
