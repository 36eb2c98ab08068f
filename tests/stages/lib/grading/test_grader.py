"""The grader: verdicts, limits, threads, workers."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from padd_artifacts.errors import PaddError, UsageError
from padd_stages.lib.grading import pool as grading_pool
from padd_stages.lib.grading.grader import Grader, Verdict


def _mixed_pairs() -> list[tuple[str, object]]:
    sums = [(rf"\boxed{{x+{n}}}", f"{n}+x" if n % 3 else f"{n}-x") for n in range(20)]
    runaways = [(rf"\boxed{{{n}!!}}", "5") for n in (10, 12)]
    return [*sums[:7], runaways[0], *sums[7:13], runaways[1], *sums[13:]]


def test_runaway_answers_are_killed_and_everything_else_is_graded_alike() -> None:
    seen: list[list[Verdict]] = []
    for workers in (1, 3):
        with Grader(workers=workers, time_limit=3.0) as grader:
            started = time.monotonic()
            seen.append(grader.grade(_mixed_pairs()))
            assert time.monotonic() - started < 90  # 10!! alone would run for minutes
            assert grader.timeouts == 2
            grader.grade([(r"\boxed{10!!}", "5")])
            assert grader.timeouts == 3  # a repeat counts, though nobody waits for it again
    assert seen[0] == seen[1]
    assert [verdict.reason for verdict in seen[0]].count("timeout") == 2
    assert [seen[0][7].reason, seen[0][14].reason] == ["timeout", "timeout"]
    assert sum(verdict.correct for verdict in seen[0]) == sum(1 for n in range(20) if n % 3)


def _patched_workers(monkeypatch: pytest.MonkeyPatch, patch: str) -> None:
    """Workers started from now on run ``patch`` (which may replace things in the module ``worker``) first."""
    script = f"import os, signal, padd_stages.lib.grading.worker as worker\n{patch}\nworker.main()"
    real = subprocess.Popen

    def popen(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        return real([sys.executable, "-c", script, *command[-2:]], **options)

    monkeypatch.setattr(grading_pool.subprocess, "Popen", popen)


def test_a_worker_that_dies_costs_one_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    patch = (
        "def judge(prediction, gold, boxed):\n"
        "    if prediction == 'x+13': os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return ('match' if prediction.startswith('x') else 'different'), None\n"
        "worker.judge = judge"
    )
    _patched_workers(monkeypatch, patch)
    with Grader(workers=1, time_limit=20.0) as broken:
        verdicts = broken.grade([(rf"\boxed{{x+{n}}}", "y") for n in range(10, 17)])
    assert [verdict.reason for verdict in verdicts] == ["match"] * 3 + ["timeout"] + ["match"] * 3


@pytest.mark.parametrize(("memory", "reason"), [(1 << 30, "different"), (1 << 40, "match")])
def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch, memory: int, reason: str) -> None:
    """A "parser" that reserves 4 GiB, for gold and answer alike: both come out equal only if it may."""
    _patched_workers(
        monkeypatch,
        "import mmap, padd_stages.lib.grading.verification as verification\n"
        "verification._parse_box = lambda text: [str(len(mmap.mmap(-1, 1 << 32)))]",
    )
    with Grader(workers=1, time_limit=30.0, memory=memory) as small:
        assert small.grade([(r"\boxed{x}", "y")])[0].reason == reason


def test_a_worker_that_cannot_start_is_one_clear_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grading_pool.sys, "executable", "/bin/false")
    with Grader(workers=1) as broken, pytest.raises(PaddError, match="grading process ended by itself"):
        broken.grade([(r"\boxed{x}", "y")])


def test_hostile_answers_neither_crash_nor_run(grader: Grader, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    answers = [
        f'__import__("os").system("touch {marker}")',
        f"\\text{{open('{marker}', 'w')}}",
        "\x00",
        "\ud800",
        "{" * 100_000 + "}" * 100_000,
        "9" * 1_000_000,
        r"\frac{1}{" * 8 + "2" + "}" * 8,
        r"\left( \begin{pmatrix} 1 & \\",
        "٤٢",
        "四十二",
        "\\" * 3_001,
    ]
    verdicts = grader.grade([(rf"\boxed{{{answer}}}", "5") for answer in answers])
    assert not any(verdict.correct for verdict in verdicts)
    assert not marker.exists()
    assert grader.grade([(r"\boxed{y+1}", "1+y")])[0].correct


def test_works_in_threads_at_the_same_time(grader: Grader) -> None:
    results: dict[int, list[bool]] = {}

    def work(index: int) -> None:
        pairs = [(rf"\boxed{{z+{n}}}", f"{n + index % 2}+z") for n in range(8)]
        results[index] = [verdict.correct for verdict in grader.grade(pairs)]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {index: [index % 2 == 0] * 8 for index in range(4)}


def _children(process: subprocess.Popen[bytes]) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
    return [int(child) for child in listed.stdout.split()]


def test_no_process_is_left_behind() -> None:
    with Grader(workers=2, time_limit=5.0) as grader:
        assert grader._pool is not None
        processes = [worker.process for worker in grader._pool._workers]
        patience = time.monotonic() + 60
        while not all(children := [_children(process) for process in processes]):
            assert time.monotonic() < patience
            time.sleep(0.1)
    assert all(process.poll() is not None for process in processes)
    assert not any(os.path.exists(f"/proc/{child}") for each in children for child in each)
    with pytest.raises(RuntimeError, match="outside"):
        grader.grade([(r"\boxed{1}", "1")])


def test_an_interrupted_call_ends_its_processes_at_once() -> None:
    """Ctrl-C while an answer runs away (SIGUSR2 stands for SIGINT)."""

    def interrupt(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    def run_away() -> None:
        with Grader(workers=1, time_limit=300.0) as grader:
            grader.grade([(r"\boxed{x+1}", "1+x")])
            assert grader._pool is not None
            started.append(grader._pool._workers[0].process)
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGUSR2)).start()
            grader.grade([(r"\boxed{10!!}", "5")])
        raise AssertionError("nobody interrupted")

    started: list[subprocess.Popen[bytes]] = []
    before = signal.signal(signal.SIGUSR2, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_away()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert started[0].poll() == 0
    left = subprocess.run(["pgrep", "-f", "grading_worker 300.0"], capture_output=True, text=True).stdout
    assert left == ""


def test_workers_load_no_model_code() -> None:
    code = (
        "import json, sys, padd_stages.lib.grading.worker as worker\n"
        "worker.judge('x', worker.Gold(('x',)), True)\n"
        "print(json.dumps([name for name in ('torch', 'transformers', 'pydantic') if name in sys.modules]))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == []


def test_can_be_used_by_a_script_without_a_main_guard() -> None:
    code = (
        "from padd_stages.lib.grading.grader import Grader\n"
        "with Grader(workers=1) as grader:\n"
        "    print(grader.grade([(r'\\boxed{x+1}', '1+x')])[0].reason)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "match\n"
    assert result.stderr == ""


def test_256_short_answers_take_well_under_a_fifth_of_a_second(grader: Grader) -> None:
    """What one training step asks for: 32 prompts by 8 samples, integers, half of them right."""
    text = "We add the numbers one after the other. " * 20
    pairs = [(rf"{text}\boxed{{{n // 8 + n % 2}}}", n // 8) for n in range(256)]
    grader.grade([(r"\boxed{x+1}", "1+x")])  # workers are up
    took = []
    for _ in range(3):
        started = time.perf_counter()
        verdicts = grader.grade(pairs)
        took.append(time.perf_counter() - started)
    assert sum(verdict.correct for verdict in verdicts) == 128
    assert min(took) < 0.2


def test_the_cache_makes_repeats_free_and_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("padd_stages.lib.grading.grader.CACHE_SIZE", 5)
    with Grader(workers=1, time_limit=20.0) as grader:
        pairs = [(rf"\boxed{{w+{n}}}", f"{n}+w") for n in range(8)]
        first = grader.grade([*pairs, *pairs])
        assert len(grader._cache) == 5
        assert grader.grade(pairs) == first[:8] == first[8:]


@pytest.mark.parametrize(("workers", "limit"), [(0, 1.0), (2, 0.0)])
def test_senseless_limits_are_refused(workers: int, limit: float) -> None:
    with pytest.raises(UsageError, match=str(workers)):
        Grader(workers, limit)
