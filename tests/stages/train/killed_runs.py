"""A program that trains the pico pair once undisturbed, then again and again with processes that are killed.

It imports torch once; every run is a fork of it, and it computes nothing itself: torch's threads do not survive a
fork. A process dies by SIGKILL at a random time, or in the middle of its
n-th change to the file system (a checkpoint half written, half removed, the manifest not yet renamed), and the next
one resumes. Called by tests/stages/train/test_kills.py with one JSON argument; prints one JSON object.
"""

import contextlib
import functools
import importlib
import itertools
import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from padd_artifacts.artifact import open_artifact
from padd_artifacts.plan import Plan
from padd_artifacts.writer import ArtifactWriter, Output
from padd_stages.lib.grading.grader import Verdict
from padd_stages.lib.runtime import parts
from padd_stages.train import stage as train
from padd_stages.train.options import TrainInputs, TrainOptions

FILE_CHANGES = [
    (parts, "save_file"),
    (os, "replace"),
    (os, "unlink"),
    (os, "truncate"),
    (shutil, "rmtree"),
]
HANGS = 100.0  # seconds after which a run that should end by itself is killed, and the test fails


class NoGrader:
    """Random weights solve nothing; real grading processes would only cost time."""

    def __init__(self, workers: int, time_limit: float) -> None:
        self.timeouts = 0

    def __enter__(self) -> "NoGrader":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def grade(self, pairs: list[Any], extract: str = "boxed") -> list[Verdict]:
        return [Verdict(False, None, "no-answer") for _ in pairs]


class Deadly:
    """Counts changes to files; dies in the middle of the n-th one of a kind."""

    def __init__(self, die_at: tuple[str, int] | None) -> None:
        self.die_at = die_at
        self.counts: Counter[str] = Counter()
        for module, name in FILE_CHANGES:
            setattr(module, name, self.wrap(getattr(module, name), name))

    def wrap(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*arguments: Any, **keywords: Any) -> Any:
            self.counts[name] += 1
            if (name, self.counts[name]) == self.die_at:
                if name == "save_file":
                    function(*arguments, **keywords)
                    os.truncate(arguments[1], os.path.getsize(arguments[1]) // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **keywords)

        return wrapped


def run(spec: dict[str, Any], out: Path, die_at: tuple[str, int] | None) -> Counter[str]:
    """One process of a run, to its end or its death; returns the number of changes to files by kind."""
    deadly = Deadly(die_at)
    train.run(
        TrainInputs(**spec["inputs"]),
        TrainOptions(**spec["options"]),
        Output(out, force=True, resume=Output(out).unfinished() is not None),
    )
    return deadly.counts


def fork(
    spec: dict[str, Any],
    out: Path,
    *,
    die_at: tuple[str, int] | None = None,
    seconds: float = HANGS,
    result: Path | None = None,
) -> bool:
    """Run in a child, which is killed after ``seconds``; True if it came to its end, an error if it failed."""
    child = os.fork()
    if child == 0:
        try:
            counts = run(spec, out, die_at)
            if result is not None:
                result.write_text(json.dumps([counts, list(sys.modules)]))
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    deadline = time.monotonic() + seconds
    while not (ended := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < deadline:
        time.sleep(0.001)
    if not ended[0]:
        os.kill(child, signal.SIGKILL)
        ended = os.waitpid(child, 0)
    failed = os.WIFEXITED(ended[1]) and os.WEXITSTATUS(ended[1])
    if failed or (seconds == HANGS and time.monotonic() >= deadline):
        raise RuntimeError(f"a run of {out} failed or hung")
    return os.WIFEXITED(ended[1])


def write_old(out: Path) -> None:
    """An artifact that the runs are to replace."""
    with ArtifactWriter(Output(out), Plan("student", TrainOptions(seed=99), {})) as writer:
        writer.write_json("report.json", {})


def stands(out: Path, whole: Path, *, replaces: bool) -> bool:
    """Whether the result is there; if not, the artifact that it replaces is, after what a command does first."""
    Output(out, force=True).check()
    if not out.exists():
        if replaces:
            raise RuntimeError(f"neither the old nor the new artifact is at {out}")
        return False
    return open_artifact(out).manifest.digest == open_artifact(whole).manifest.digest


def main() -> None:
    spec = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    train.Grader = NoGrader
    folder = Path(spec["folder"])
    fork(spec, folder / "whole", result=folder / "whole.json")
    counts, modules = json.loads((folder / "whole.json").read_text())
    for name in modules:  # what a run imports on its way is half of its time
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    started = time.monotonic()
    fork(spec, folder / "again")
    seconds = time.monotonic() - started
    chance = random.Random(spec["seed"])
    kinds = itertools.cycle([name for _, name in FILE_CHANGES])
    deaths, resumed, runs = [], 0, [str(folder / "again")]
    while len(deaths) < spec["kills"]:
        out = folder / f"run{len(runs)}"
        runs.append(str(out))
        replaces = len(runs) % 2 == 0
        if replaces:
            write_old(out)
        while not stands(out, folder / "whole", replaces=replaces):
            resumed += Output(out).unfinished() is not None
            if len(deaths) % 2:
                kind, done = "time", fork(spec, out, seconds=chance.uniform(0.0, seconds))
            else:
                kind = next(kinds)
                done = fork(spec, out, die_at=(kind, chance.randint(1, counts.get(kind, 1))))
            deaths += [] if done else [kind]
    print(json.dumps({"deaths": deaths, "resumed": resumed, "runs": runs}))


if __name__ == "__main__":
    main()
