"""Progress as a bar on a terminal and as plain lines in a log."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from padd_cli.console.streams import print_warning

# The first steps compile, allocate and warm caches: they are left out of the rate.
STEPS_OUTSIDE_RATE = 2
# Seconds between two lines of a log that hold only a count.
LOG_INTERVAL = 10.0
# A phase that took less than this many seconds ends without a line.
SHORTEST_LOGGED_PHASE = 1.0

Clock = Callable[[], float]


class Pace:
    """Estimate of the time left in a phase, by the rate since its first steps."""

    def __init__(self, total: int | None, clock: Clock) -> None:
        self.total = total
        self.done = 0
        self._clock = clock
        self._calls = 0
        self._from: tuple[int, float] | None = None

    def advance(self, n: int) -> None:
        """Count ``n`` more units as done."""
        self.done += n
        self._calls += 1
        if self._calls == STEPS_OUTSIDE_RATE:
            self._from = (self.done, self._clock())

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the total is reached; None while the rate or the total is not known."""
        if self.total is None or self._from is None or self.done <= self._from[0]:
            return None
        done, since = self._from
        per_unit = (self._clock() - since) / (self.done - done)
        return max(0.0, per_unit * (self.total - self.done))


def duration(seconds: float) -> str:
    """Format seconds: ``42 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class ConsoleReporter:
    """Progress of a stage on a console; used as a context manager, so that a bar never outlives its stage."""

    def __init__(
        self, console: Console, *, quiet: bool = False, verbose: int = 0, clock: Clock = time.monotonic
    ) -> None:
        self.console = console
        self.quiet = quiet
        self.verbose = verbose
        self._clock = clock
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._name = ""
        self._pace = Pace(None, clock)
        self._started = clock()
        self._last_line = clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_phase(finished=kind is None)

    def phase(self, name: str, total: int | None = None) -> None:
        """End the current phase and start a new one."""
        self._end_phase(finished=True)
        self._name = name
        self._pace = Pace(total, self._clock)
        self._started = self._last_line = self._clock()
        if self.quiet:
            return
        if not self.console.is_terminal:
            self._print(name if total is None else f"{name}: {total}")
            return
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}", markup=False),
            TextColumn("{task.fields[left]}", markup=False),
            TextColumn("{task.fields[line]}", markup=False),
            console=self.console,
            transient=True,
        )
        self._task = self._bar.add_task(name, total=total, count="", left="", line="")
        self._bar.start()

    def advance(self, n: int = 1, line: str = "") -> None:
        """Count ``n`` units, and show ``line`` or, at intervals, the count."""
        self._pace.advance(n)
        if self.quiet:
            return
        left = self._pace.seconds_left
        time_left = "" if left is None else f"{duration(left)} left"
        if self._bar is not None and self._task is not None:
            shown: dict[str, Any] = {"left": time_left, "count": self._count()} | (
                {"line": line} if line else {}
            )
            self._bar.update(self._task, advance=n, **shown)
            if line and self.verbose:
                self._print(line)
            return
        now = self._clock()
        if line:
            count = "" if self._pace.total is None else f"{self._count()}  "
            self._print(f"{count}{line}  {time_left}".rstrip())
            self._last_line = now
        elif now - self._last_line >= LOG_INTERVAL:
            self._print(f"{self._name}: {self._count()}  {time_left}".rstrip())
            self._last_line = now

    def note(self, text: str) -> None:
        """Print one line, unless -q."""
        if not self.quiet:
            self._print(f"note: {text}")

    def warn(self, text: str) -> None:
        """Print one line, always."""
        print_warning(text, self.console)

    def _end_phase(self, *, finished: bool) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None
        seconds = self._clock() - self._started
        if self._name and finished and not self.quiet and seconds >= SHORTEST_LOGGED_PHASE:
            self._print(f"{self._name}: {self._count()} in {duration(seconds)}")
        self._name = ""

    def _count(self) -> str:
        pace = self._pace
        if pace.total is not None:
            return f"{pace.done}/{pace.total}"
        return str(pace.done) if pace.done else "done"

    def _print(self, text: str) -> None:
        self.console.print(Text(text))
