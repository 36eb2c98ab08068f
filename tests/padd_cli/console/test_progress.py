"""Progress: a rate without the first steps, few lines in a log, a bar on a terminal."""

import io

import pytest
from rich.console import Console

from padd_cli.console.progress import ConsoleReporter, Pace, duration


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def make(*, terminal: bool = False, quiet: bool = False) -> tuple[ConsoleReporter, io.StringIO, Clock]:
    stream, clock = io.StringIO(), Clock()
    console = Console(file=stream, force_terminal=terminal, width=100, soft_wrap=True, highlight=False)
    return ConsoleReporter(console, quiet=quiet, clock=clock), stream, clock


def test_the_first_steps_are_outside_the_rate() -> None:
    clock = Clock()
    pace = Pace(10, clock)
    for seconds in (100.0, 50.0, 2.0, 2.0):
        clock.now += seconds
        pace.advance(1)
    assert pace.seconds_left == pytest.approx(6 * 2.0)


def test_no_time_left_without_a_total_or_a_rate() -> None:
    clock = Clock()
    without_total, young = Pace(None, clock), Pace(5, clock)
    for _ in range(4):
        without_total.advance(1)
    young.advance(1)
    assert (without_total.seconds_left, young.seconds_left) == (None, None)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_log_gets_the_start_the_end_and_a_line_every_ten_seconds() -> None:
    reporter, stream, clock = make()
    with reporter:
        reporter.phase("responses", 100)
        for _ in range(100):
            clock.now += 0.25
            reporter.advance()
    lines = stream.getvalue().splitlines()
    assert lines == [
        "responses: 100",
        "responses: 40/100  15 s left",
        "responses: 80/100  5 s left",
        "responses: 100/100 in 25 s",
    ]


def test_dense_lines_are_all_kept() -> None:
    reporter, stream, clock = make()
    with reporter:
        reporter.phase("training", 3)
        for _ in range(3):
            clock.now += 4.0
            reporter.advance(line="reward 0.5 [x]")
    assert stream.getvalue().splitlines() == [
        "training: 3",
        "1/3  reward 0.5 [x]",
        "2/3  reward 0.5 [x]",
        "3/3  reward 0.5 [x]  0 s left",
        "training: 3/3 in 12 s",
    ]


def test_a_short_phase_is_one_line() -> None:
    reporter, stream, clock = make()
    with reporter:
        reporter.phase("reading")
        clock.now += 0.5
        reporter.phase("loading")
        clock.now += 1.5
    assert stream.getvalue().splitlines() == ["reading", "loading", "loading: done in 2 s"]


def test_quiet_keeps_warnings_only() -> None:
    reporter, stream, _ = make(quiet=True)
    with reporter:
        reporter.phase("x", 1)
        reporter.advance(line="line")
        reporter.note("note")
        reporter.warn("look [here]")
    assert stream.getvalue() == "warning: look [here]\n"


def test_a_terminal_gets_a_bar_that_does_not_outlive_the_stage() -> None:
    reporter, stream, _ = make(terminal=True)
    reporter.phase("training", 4)
    reporter.advance(line="reward 0.5")
    with pytest.raises(RuntimeError), reporter:
        raise RuntimeError
    text = stream.getvalue()
    assert "training" in text
    assert "1/4" in text
    assert "\x1b[?25h" in text.split("1/4")[-1], "the cursor stays hidden"
    assert "in 0 s" not in text, "a phase that failed is not reported as done"
