"""The process in which math-verify runs: ``python -P -m padd_stages.lib.grading.worker SECONDS BYTES``.

It reads chunks of answers from standard input, one JSON line each, and writes one JSON line per answer. Two
processes make a worker: a supervisor that has imported math-verify and waits, and its forked child that
grades. When an answer takes too long the parent signals the supervisor (SIGUSR1), which kills the child and forks
another: replacing it costs a fork, not an import. SIGTERM ends both. Only the standard library and math-verify are
imported, so no model code is loaded, and the caller's ``__main__`` is not imported again.
"""

import contextlib
import json
import os
import resource
import signal
import sys
from types import FrameType
from typing import BinaryIO

from padd_stages.lib.compat.math_verify import LIBRARY
from padd_stages.lib.compat.probes import failures
from padd_stages.lib.grading.gold import Gold
from padd_stages.lib.grading.verification import judge

HELLO = b"ready\n"
REFUSED = b"refused: "  # before the sentence that says why nothing can be graded

# Compared once before the first fork, so that no child pays for sympy's late imports and cold caches again (0.3 s of
# CPU for the first unequal expressions, seconds on a busy machine).
WARM_UP = (
    ("x+1", "1-x"),
    (r"\frac{\sqrt{2}}{3}", r"\frac{1}{2}+\pi"),
    (r"\sin x", r"2\cos(y)"),
    ("(1, 2]", "(1, 3]"),
    (r"\{1, 2\}", "1, 3"),
    ("(1, x, 2)", "(1, y, 3)"),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{pmatrix} 1 & 2 \\ 3 & 5 \end{pmatrix}"),
    ("x = 2y", "y = 3x"),
    ("x < 2", r"x \ge 3"),
    (r"50\%", r"\log_2 3"),
    (r"\text{east}", r"\text{west}"),
)


def serve(source: BinaryIO, sink: int, seconds: float) -> None:
    """Answer chunks until the input ends. The alarm is a backstop for a parent that is gone and cannot kill."""
    os.write(sink, HELLO)
    while line := source.readline():
        for prediction, gold, boxed in json.loads(line):
            signal.setitimer(signal.ITIMER_REAL, 2 * seconds + 1)
            reply = json.dumps(judge(prediction, Gold(**gold), boxed))
            signal.setitimer(signal.ITIMER_REAL, 0)
            os.write(sink, reply.encode() + b"\n")


def _limit(memory: int) -> None:
    for kind, amount in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(kind)[1]
        soft = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
        with contextlib.suppress(OSError, ValueError):  # macOS refuses some of them
            resource.setrlimit(kind, (soft, hard))


def _child(source: BinaryIO, sink: int, seconds: float, memory: int) -> int:
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    _limit(memory)
    try:
        serve(source, sink, seconds)
    except BrokenPipeError:
        return 0
    except BaseException:
        return 1
    return 0


def supervise(source: BinaryIO, sink: int, seconds: float, memory: int) -> None:
    """Keep one grading child alive until the input ends."""
    child = 0

    def stop_child(number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):  # it may have ended at this very moment
            if child:
                os.kill(child, signal.SIGKILL)
        if number == signal.SIGTERM:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, 0)  # where nobody adopts orphans it would stay as a zombie
            os._exit(0)

    signal.signal(signal.SIGUSR1, stop_child)
    signal.signal(signal.SIGTERM, stop_child)
    while True:
        child = os.fork()
        if child == 0:
            os._exit(_child(source, sink, seconds, memory))
        status = os.waitpid(child, 0)[1]
        child = 0
        if os.waitstatus_to_exitcode(status) == 0:
            return


def main() -> None:
    """Entry point of the worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business: our input then ends
    sink = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints must not end up between the replies
    for sentence in failures(LIBRARY):
        os.write(sink, REFUSED + sentence.encode() + b"\n")
        os._exit(1)
    for prediction, gold in WARM_UP:
        judge(prediction, Gold((gold,)), True)
    supervise(sys.stdin.buffer, sink, float(sys.argv[1]), int(sys.argv[2]))
    os._exit(0)  # tearing sympy down takes 0.3 s and frees nothing that the system does not


if __name__ == "__main__":
    main()
