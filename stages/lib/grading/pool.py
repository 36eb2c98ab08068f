"""Grading processes as the parent sees them: chunks out, verdicts back, a clock per answer, kill and replace."""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from padd_artifacts.errors import PaddError
from padd_stages.lib.grading.gold import Gold
from padd_stages.lib.grading.worker import HELLO, REFUSED

START_SECONDS = (
    120.0  # chosen: importing math-verify takes 0.6 s on an idle machine; this is for a loaded one
)
STOP_SECONDS = 10.0  # chosen: ending takes milliseconds
MAX_CHUNK = 32  # chosen: a message costs far less than parsing 32 answers, and a kill sends at most 31 again
READ_BYTES = 1 << 16


@dataclass(frozen=True)
class Task:
    """One comparison: ``prediction`` is a box's content, or a whole text when ``boxed`` is false."""

    prediction: str
    gold: Gold
    boxed: bool


@dataclass(frozen=True)
class Outcome:
    """A worker's verdict; ``timeout`` also stands for an answer whose process died (out of memory, of stack)."""

    reason: str
    found: str | None


class _Worker:
    """One worker process and the chunk that it is busy with."""

    def __init__(self, time_limit: float, memory: int) -> None:
        self.time_limit = time_limit
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        command = [
            sys.executable,
            "-P",
            "-m",
            "padd_stages.lib.grading.worker",
            str(time_limit),
            str(memory),
        ]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, bufsize=0
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.output = self.process.stdin, self.process.stdout.fileno()
        self.ready = False
        self.chunk: deque[int] = deque()
        self.deadline = time.monotonic() + START_SECONDS
        self._rest = b""

    def send(self, chunk: list[int], tasks: Sequence[Task]) -> None:
        message = json.dumps([(tasks[i].prediction, asdict(tasks[i].gold), tasks[i].boxed) for i in chunk])
        data = memoryview(message.encode() + b"\n")
        while data:
            data = data[os.write(self.stdin.fileno(), data) :]
        self.chunk = deque(chunk)
        self.deadline = time.monotonic() + self.time_limit

    def lines(self) -> list[bytes]:
        """Whole lines that have arrived; PaddError if the process is gone."""
        data = os.read(self.output, READ_BYTES)
        if not data:
            raise PaddError(
                f"a grading process ended by itself, so nothing can be graded: {self._last_words()}"
            )
        *whole, self._rest = (self._rest + data).split(b"\n")
        return [line + b"\n" for line in whole]

    def kill_child(self) -> None:
        """Stop the answer at work; the process says hello again when its replacement is up."""
        self.process.send_signal(signal.SIGUSR1)
        self.ready = False
        self.deadline = time.monotonic() + START_SECONDS

    def stop(self) -> None:
        """Ask the process to end, whatever it is at."""
        self.stdin.close()
        self.process.terminate()

    def close(self) -> None:
        """Wait for its end."""
        try:
            self.process.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.errors.close()

    def _last_words(self) -> str:
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it left no message; run with one worker fewer if memory is short."


class WorkerPool:
    """Grading processes for :class:`padd_stages.lib.grading.grader.Grader`; not safe for threads by itself."""

    def __init__(self, workers: int, time_limit: float, memory: int) -> None:
        self._workers = [_Worker(time_limit, memory) for _ in range(workers)]

    def close(self) -> None:
        """End all processes."""
        for worker in self._workers:
            worker.stop()
        for worker in self._workers:
            worker.close()

    def run(self, tasks: Sequence[Task]) -> list[Outcome]:
        """Compare all tasks; the order of the outcomes is the order of the tasks."""
        outcomes: dict[int, Outcome] = {}
        waiting = deque(range(len(tasks)))
        size = max(1, min(MAX_CHUNK, -(-len(tasks) // (2 * len(self._workers)))))
        while len(outcomes) < len(tasks):
            for worker in self._workers:
                if worker.ready and not worker.chunk and waiting:
                    worker.send([waiting.popleft() for _ in range(min(size, len(waiting)))], tasks)
            self._wait_for_replies(outcomes, waiting)
            now = time.monotonic()
            for worker in self._workers:
                if now >= worker.deadline and (worker.chunk or not worker.ready):
                    self._overdue(worker, outcomes, waiting)
        return [outcomes[index] for index in range(len(tasks))]

    def _wait_for_replies(self, outcomes: dict[int, Outcome], waiting: deque[int]) -> None:
        busy = {worker.output: worker for worker in self._workers if worker.chunk or not worker.ready}
        nearest = min(worker.deadline for worker in busy.values())
        poll = select.poll()
        for descriptor in busy:
            poll.register(descriptor, select.POLLIN)
        for descriptor, _event in poll.poll(max(0.0, nearest - time.monotonic()) * 1_000):
            worker = busy[descriptor]
            for line in worker.lines():
                self._take(worker, line, outcomes, waiting)

    def _take(self, worker: _Worker, line: bytes, outcomes: dict[int, Outcome], waiting: deque[int]) -> None:
        if line.startswith(REFUSED):
            raise PaddError(line.removeprefix(REFUSED).decode().strip())
        if line == HELLO:
            if worker.ready:  # nobody killed it: the answer at work did
                self._give_up(worker, outcomes, waiting)
            worker.ready = True
        elif worker.ready and worker.chunk:  # else the last words of a child that was killed
            outcomes[worker.chunk.popleft()] = Outcome(*json.loads(line))
            worker.deadline = time.monotonic() + worker.time_limit

    def _overdue(self, worker: _Worker, outcomes: dict[int, Outcome], waiting: deque[int]) -> None:
        if not worker.ready:
            raise PaddError(
                f"a grading process was not ready after {START_SECONDS:.0f} s, so nothing can be graded; "
                "check that the machine is not overloaded."
            )
        worker.kill_child()
        self._give_up(worker, outcomes, waiting)

    @staticmethod
    def _give_up(worker: _Worker, outcomes: dict[int, Outcome], waiting: deque[int]) -> None:
        if worker.chunk:
            outcomes[worker.chunk.popleft()] = Outcome("timeout", None)
        waiting.extendleft(reversed(worker.chunk))
        worker.chunk.clear()
