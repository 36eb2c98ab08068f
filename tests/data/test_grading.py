"""The grader: verdicts, limits, threads, workers."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from padd_artifacts.errors import PaddError, UsageError
from padd_stages.data import grading_pool
from padd_stages.data.gold import Gold
from padd_stages.data.grading import Grader, Verdict, decide
from padd_stages.data.grading_pool import Task
from padd_stages.data.verification import judge


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(workers=2, time_limit=20.0) as shared:
        yield shared


CASES = [
    # response, gold, reason
    (r"\boxed{42}", "42", "match"),
    (r"\boxed{42}", 42, "match"),
    (r"\boxed{42}", 42.0, "match"),
    (r"\boxed{42}", ["41", 42], "match"),
    (r"\boxed{43}", ["41", 42], "different"),
    (r"\boxed{25}", "025", "match"),
    (r"\boxed{025}", "25", "match"),
    (r"\boxed{7,425,000}", "7425000", "match"),
    (r"\boxed{7{,}425{,}000}", "7425000", "match"),
    (r"\boxed{7425001}", "7,425,000", "different"),
    (r"\boxed{0.50}", "0.5", "match"),
    (r"\boxed{\frac{1}{2}}", "0.5", "match"),
    (r"\boxed{0.333333}", r"\frac{1}{3}", "match"),
    (r"\boxed{0.34}", r"\frac{1}{3}", "different"),
    (r"\boxed{1/3}", r"\frac13", "match"),
    (r"\boxed{-1/3}", "-1./3", "match"),
    (r"\boxed{4.5 \times 10^{33}}", "4.5e33", "match"),
    (r"\boxed{4.5e33}", r"4.5 \times 10^{33}", "match"),
    (r"\boxed{403.2}", "4.5e33", "different"),
    (r"\boxed{2.88 \times 10^{-19}}", "2.88e-19", "match"),
    (r"\boxed{3 \times 10^{-19}}", "2.88e-19", "different"),
    (r"\boxed{E = 1e-27}", "4.6e-24", "different"),
    (r"\boxed{0.012346}", r"\frac{1}{81}", "match"),
    (r"\boxed{62.5\%}", "62.5%", "match"),
    (r"\boxed{204_5}", "204_{5}", "match"),
    (r"\boxed{204_6}", "204_5", "different"),
    (r"\boxed{204}", "204_5", "match"),
    (r"\boxed{\frac{2}{3}}", r"\frac{1}{3} E_{1}+\frac{2}{3} E_{2}", "different"),
    (r"\boxed{\frac{1}{3} E_1+\frac{2}{3} E_3}", r"\frac{1}{3} E_{1}+\frac{2}{3} E_{2}", "different"),
    (r"\boxed{\frac{2E_2+E_1}{3}}", r"\frac{1}{3} E_{1}+\frac{2}{3} E_{2}", "match"),
    (r"\boxed{2}", r"\hbar \omega(v+1 / 2)-\frac{E_{0}^{2} e^{2}}{2 m \omega^{2}}", "different"),
    (r"\boxed{0.5\%}", "0.005", "match"),
    (r"\boxed{0.5\%}", "0.005001", "different"),
    (r"\boxed{10^{400}}", "1e400", "match"),
    (r"\boxed{\arcsin\frac{10}{13}}", "np.arcsin(10/13)", "match"),
    (r"\boxed{E_1, E_2}", "E_{1},E_{2}", "match"),
    (r"\boxed{\text{east}}", r"\text{east}", "match"),
    (r"\boxed{2\sqrt{3}}", r"\sqrt{12}", "match"),
    (r"\boxed{(x+1)^2}", "x^2+2x+1", "match"),
    (r"\boxed{x=5}", "5", "match"),
    (r"\boxed{2,1}", "1,2", "match"),
    (r"\boxed{\left( 3, \frac{\pi}{2} \right)}", r"(3, \pi/2)", "match"),
    (r"\boxed{[0,1)}", "$[0,1)$", "match"),
    (r"\boxed{[0,9)}", "$(0,9)$", "different"),
    (r"\boxed{1} and \boxed{2}", "1", "different"),
    (r"\boxed{1} and \boxed{2}", "2", "match"),
    (r"the answer is 5", "5", "no-answer"),
    (r"\boxed{\frac{1}{2}", r"\frac{1}{2}", "no-answer"),
    (r"\boxed{}", "1", "no-answer"),
    (r"<think>\boxed{1}</think>\boxed{3}", "3", "match"),
    ("", "1", "no-answer"),
]


@pytest.mark.parametrize(("response", "gold", "reason"), CASES)
def test_verdicts(grader: Grader, response: str, gold: object, reason: str) -> None:
    [verdict] = grader.grade([(response, gold)])
    assert verdict.reason == reason
    assert verdict.correct == (reason == "match")
    assert (verdict.extracted is None) == (reason == "no-answer")


def test_a_batch_keeps_its_order(grader: Grader) -> None:
    verdicts = grader.grade([(response, gold) for response, gold, _ in CASES])
    assert [verdict.reason for verdict in verdicts] == [reason for _, _, reason in CASES]
    assert grader.grade([]) == []


def test_extracted_is_the_answer_as_it_was_written(grader: Grader) -> None:
    assert grader.grade([(r"so \boxed{4.5e33}", "1")])[0].extracted == "4.5e33"


@pytest.mark.parametrize(
    ("response", "gold", "reason"),
    [
        ("The final answer is $5$.", "5", "match"),
        ("The final answer is $6$.", "5", "different"),
        (r"It is 7, so \boxed{5}", "5", "match"),
        ("<think>It is 5</think> I do not know", "5", "no-answer"),
        ("   ", "5", "no-answer"),
    ],
)
def test_extract_any_reads_free_text(grader: Grader, response: str, gold: str, reason: str) -> None:
    [verdict] = grader.grade([(response, gold)], extract="any")
    assert verdict.reason == reason
    assert (verdict.extracted is None) == (reason == "no-answer")


ALL = {"several": True}
GOLD_CASES = [
    # response's box, gold, what the benchmark says of it, right?
    ("5,1,3", "1,3,5", ALL, True),
    (r"\{5,1,3\}", "1,3,5", ALL, True),
    (r"x=1 \text{ or } x=3 \text{ or } x=5", "1,3,5", ALL, True),
    ("1,3", "1,3,5", ALL, False),
    ("1,3,5,7", "1,3,5", ALL, False),
    ("1,3,4", "1,3,5", ALL, False),
    (r"\pm 1, \pm 7", "1,-1,7,-7", ALL, True),
    ("-2", "-2,-2", ALL, False),
    ("-2,-2", "-2,-2", ALL, True),
    ("16,3,1", "16,3,1,1", ALL, False),
    ("16,16,3,1", "16,3,1,1", ALL, False),
    ("1,16,1,3", "16,3,1,1", ALL, True),
    ("f(x)=x+1, f(x)=-1", "$f(x)=-1$,$f(x)=x+1$", ALL, True),
    ("x+1", "$f(x)=-1$,$f(x)=x+1$", ALL, False),
    ("(2,7,13),(1,8,19)", "$(1,8,19), (2,7,13)$", ALL, True),
    ("(7,2,13),(1,8,19)", "$(1,8,19), (2,7,13)$", ALL, False),
    ("2,400, 1,350, 864", "2400, 1350, 864", ALL, True),
    ("54108", "54,108", ALL, False),
    ("4.3", "4.2", {"tolerance": 0.1}, True),
    ("4.1", "4.2", {"tolerance": 0.1}, True),
    (r"\frac{43}{10}", "4.2", {"tolerance": 0.1}, True),
    ("4.31", "4.2", {"tolerance": 0.1}, False),
    ("5", "4", {"tolerance": 1.0}, True),
    ("6", "4", {"tolerance": 1.0}, False),
    (r"\text{none}", "4", {"tolerance": 1.0}, False),
    (r"4.2\%", "4.2", {"unit": "%"}, True),
    (r"4.2\%", "4.2", {}, False),
    (r"\frac{600}{7} km/h", r"\frac{600}{7}", {"unit": "km/h"}, True),
    ("166 cm^2", "$166$", {"unit": "$cm^2$"}, True),
    ("167 cm^2", "$166$", {"unit": "$cm^2$"}, False),
    (r"90^\circ, 90^\circ", r"$\angle B=90$,$\angle A=90$", {**ALL, "unit": r"^{\circ}"}, True),
]


def test_several_answers_tolerances_and_units(grader: Grader) -> None:
    pairs = [(rf"\boxed{{{answer}}}", Gold((gold,), **says)) for answer, gold, says, _ in GOLD_CASES]
    wrong = [case for case, verdict in zip(GOLD_CASES, grader.grade(pairs)) if verdict.correct != case[-1]]
    assert wrong == []


def test_truncated_responses_are_wrong_whatever_stands_in_them(grader: Grader) -> None:
    pairs: list[tuple[str, object]] = [
        (r"\boxed{5}", 5),
        (r"\boxed{5}", 5),
        (r"\boxed{5", 5),
        (r"\boxed{10!!}", 5),
    ]
    verdicts = grader.grade(pairs, truncated=[False, True, True, True])
    assert [verdict.reason for verdict in verdicts] == ["match", "truncated", "truncated", "truncated"]
    assert [verdict.correct for verdict in verdicts] == [True, False, False, False]
    assert [verdict.extracted for verdict in verdicts] == ["5", "5", None, "10!!"]


@pytest.mark.parametrize("gold", [None, "", []])
def test_a_missing_gold_is_refused(grader: Grader, gold: object) -> None:
    with pytest.raises(PaddError, match="gold answer"):
        grader.grade([(r"\boxed{1}", gold)])


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
    script = f"import os, signal, padd_stages.data.grading_worker as worker\n{patch}\nworker.main()"
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
        "import mmap, padd_stages.data.verification as verification\n"
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
        "import json, sys, padd_stages.data.grading_worker as worker\n"
        "worker.judge('x', worker.Gold(('x',)), True)\n"
        "print(json.dumps([name for name in ('torch', 'transformers', 'pydantic') if name in sys.modules]))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == []


def test_can_be_used_by_a_script_without_a_main_guard() -> None:
    code = (
        "from padd_stages.data.grading import Grader\n"
        "with Grader(workers=1) as grader:\n"
        "    print(grader.grade([(r'\\boxed{x+1}', '1+x')])[0].reason)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "match\n"
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("prediction", "golds", "reason"),
    [
        ("12", ("12",), "match"),
        ("012", ("7", "12.0"), "match"),
        ("12", ("13",), "different"),
        ("12.5", ("13",), None),
        ("12", ("13", "x"), None),
        ("0.3333333", ("0.333333",), None),
        ("10!!", ("10!!",), "match"),
        ("9" * 5_000, ("9",), "different"),
    ],
)
def test_decided_without_a_worker(prediction: str, golds: tuple[str, ...], reason: str | None) -> None:
    outcome = decide(Task(prediction, Gold(golds), boxed=True))
    assert (outcome and outcome.reason) == reason


def test_the_shortcut_agrees_with_the_verifier_on_numbers() -> None:
    numbers = [
        "0",
        "7",
        "007",
        "-7",
        "7.0",
        "7.50",
        "7.5",
        "1,234",
        "1234",
        "12345678901234567890",
        "-0",
        "0.1",
    ]
    for prediction in numbers:
        for gold in numbers:
            outcome = decide(Task(prediction, Gold((gold,)), boxed=True))
            if outcome is not None:
                assert outcome.reason == judge(prediction, Gold((gold,)), True)[0], (prediction, gold)


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
    monkeypatch.setattr("padd_stages.data.grading.CACHE_SIZE", 5)
    with Grader(workers=1, time_limit=20.0) as grader:
        pairs = [(rf"\boxed{{w+{n}}}", f"{n}+w") for n in range(8)]
        first = grader.grade([*pairs, *pairs])
        assert len(grader._cache) == 5
        assert grader.grade(pairs) == first[:8] == first[8:]


@pytest.mark.parametrize("tolerance", [-1.0, float("nan"), float("inf")])
def test_a_senseless_tolerance_is_refused(tolerance: float) -> None:
    with pytest.raises(PaddError, match="tolerance"):
        Gold(("1",), tolerance)


@pytest.mark.parametrize(("workers", "limit"), [(0, 1.0), (2, 0.0)])
def test_senseless_limits_are_refused(workers: int, limit: float) -> None:
    with pytest.raises(UsageError, match=str(workers)):
        Grader(workers, limit)


def test_numbers_of_any_kind_are_golds(grader: Grader) -> None:
    numpy = pytest.importorskip("numpy")
    golds = [Decimal("2.50"), numpy.float64(2.5), numpy.array(["2.5", "9"])]
    assert all(verdict.correct for verdict in grader.grade([(r"\boxed{5/2}", gold) for gold in golds]))
