"""The reward functions of a run: built in or the user's own, sync or async, called together and summed by weight.

A user's function has TRL's signature and is called with keywords: ``prompts`` and ``completions`` (texts),
``completion_ids`` (lists of token ids), every column of the problems, and ``truncated`` (list of bool). It returns one
number a response, or None where it does not apply.
"""

import asyncio
import functools
import importlib
import inspect
import math
import sys
import traceback
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self, cast

from padd_artifacts.errors import PaddError, UsageError
from padd_artifacts.manifest import Parent, file_parent
from padd_stages.lib.grading.grader import Grader
from padd_stages.train.rewards import Reward, accuracy_reward, format_reward

ACCURACY, FORMAT = "accuracy", "format"
DEFAULT_WEIGHTS = {FORMAT: 0.0}  # docs/METHOD.md, section 4: a format bonus invites hacking; all others 1

Scores = list[float | None]


class Rewards:
    """Reward functions of a run; a context manager that owns the event loop of the async ones.

    Accuracy is always measured, since distillation and reports need it; it counts only where it is named.
    """

    def __init__(self, names: Sequence[str], weights: Sequence[float], grader: Grader) -> None:
        """Load the reward functions.

        Args:
            names: ``accuracy``, ``format``, ``module:function`` or ``file.py:function``.
            weights: as many, or none.

        Raises:
            UsageError: as `load_reward`.
        """
        self.grader = grader
        built_in = {ACCURACY: accuracy_reward(grader), FORMAT: format_reward}
        named = {reward_name(name): built_in.get(name) or load_reward(name) for name in names}
        self.functions: dict[str, Reward] = {ACCURACY: built_in[ACCURACY]} | named
        chosen = weights or [DEFAULT_WEIGHTS.get(name, 1.0) for name in names]
        self.weights = dict(zip(named, chosen, strict=True))
        self._loop = asyncio.Runner()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.close()

    def score(self, completions: Sequence[Any], **arguments: Any) -> dict[str, Scores]:
        """Compute each reward's scores of the B responses, by name; accuracy first.

        Args:
            completions: B responses.
            arguments: ``prompts``, ``completion_ids`` and the columns, each of length B.

        Raises:
            PaddError: a function raised, or returned something else than B numbers or Nones.
        """
        returned: dict[str, Any] = {}
        for name, function in self.functions.items():
            with _errors_of(name):
                returned[name] = function(completions=completions, **arguments)
        waiting = {name: value for name, value in returned.items() if inspect.isawaitable(value)}
        if waiting:
            returned |= self._loop.run(_gather(waiting))
        return {name: _checked(name, value, len(completions)) for name, value in returned.items()}

    def total(self, scores: Mapping[str, Scores]) -> Scores:
        """Compute the weighted sum of the named rewards."""
        return combine([scores[name] for name in self.weights], list(self.weights.values()))


def combine(rewards: Sequence[Scores], weights: Sequence[float]) -> Scores:
    """Compute the weighted sum over reward functions, per sample.

    Args:
        rewards: one list per reward function, each over the same samples.
        weights: one per reward function.

    Returns:
        Per sample the sum over the rewards that apply; None where none of them does.
    """
    totals: Scores = []
    for scores in zip(*rewards, strict=True):
        parts = [weight * score for score, weight in zip(scores, weights, strict=True) if score is not None]
        totals.append(math.fsum(parts) if parts else None)
    return totals


def reward_parents(names: Sequence[str]) -> dict[str, Parent]:
    """Return the source files of the user's own functions as parents: a changed one changes the recipe.

    Only the file that defines a function is hashed, not what it imports.

    Raises:
        UsageError: two rewards of one name, one without a source file, or as `load_reward`.
    """
    own = [name for name in names if name not in (ACCURACY, FORMAT)]
    called = [ACCURACY, FORMAT, *map(reward_name, own)]
    if len(set(called)) < len(called) or len(set(names)) < len(names):
        raise UsageError(
            f"two of the rewards {', '.join(names)} have one name (accuracy and format are built in), so their scores "
            "could not be told apart; rename a function, or name it once."
        )
    return {f"reward.{reward_name(name)}": file_parent(_source_file(name)) for name in own}


def reward_name(name: str) -> str:
    """Return a reward's name in metrics: the function's name, without its module."""
    return name.rpartition(":")[2]


def load_reward(name: str) -> Reward:
    """Import the user's reward function, ``module:function`` (in the current folder too) or ``path/file.py:function``.

    Raises:
        UsageError: another form, no such module or file, no such function, or something that cannot be called.
    """
    module_name, _, function_name = name.rpartition(":")
    if not module_name or not function_name:
        raise UsageError(
            f"the reward '{name}' is not accuracy, format, module:function or file.py:function, so it "
            "cannot be loaded; write one of them."
        )
    module = _import(module_name)
    if not hasattr(module, function_name):
        raise UsageError(
            f"module '{module_name}' has no '{function_name}', so nothing can be scored; check the spelling."
        )
    function = getattr(module, function_name)
    if not callable(function):
        raise UsageError(
            f"the reward '{name}' is a {type(function).__name__}, not a function, so it cannot score; name one."
        )
    return cast(Reward, function)


def _import(name: str) -> ModuleType:
    """Import a module by its name, or by its file."""
    path = Path(name).resolve() if name.endswith(".py") else None
    folder = str(path.parent if path else Path.cwd())
    sys.path.insert(0, folder)
    try:
        module = importlib.import_module(path.stem if path else name)
    except Exception as error:
        raise UsageError(
            f"the rewards of '{name}' cannot be loaded ({type(error).__name__}: {error}), so nothing can be scored; "
            f"mend or install the module, or start from the folder that holds it (searched: {folder})."
        ) from error
    finally:
        sys.path.remove(folder)
    if path and Path(module.__file__ or "").resolve() != path:
        raise UsageError(
            f"{name} has the name of another module ({module.__file__ or 'built in'}), which would be taken in its "
            "place; rename the file."
        )
    return module


def _source_file(name: str) -> Path:
    function: Any = load_reward(name)
    while isinstance(function, functools.partial):
        function = function.func
    try:
        return Path(inspect.getfile(function if inspect.isroutine(function) else type(function)))
    except TypeError as error:
        raise UsageError(
            f"the reward '{name}' has no source file, so the run could not say what it was trained on; "
            "wrap it in a function of your own."
        ) from error


@contextmanager
def _errors_of(name: str) -> Iterator[None]:
    """Turn an error inside a reward function into one sentence that names it and the line."""
    try:
        yield
    except PaddError:
        raise
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise PaddError(
            f"the reward '{name}' failed with {type(error).__name__}: {error} ({place.filename}, line {place.lineno}), "
            "so the run stops; mend the function and start anew."
        ) from error


async def _gather(waiting: Mapping[str, Awaitable[Any]]) -> dict[str, Any]:
    async def one(name: str, awaitable: Awaitable[Any]) -> Any:
        with _errors_of(name):
            return await awaitable

    results = await asyncio.gather(*(one(name, awaitable) for name, awaitable in waiting.items()))
    return dict(zip(waiting, results, strict=True))


def _checked(name: str, returned: Any, count: int) -> Scores:
    try:
        scores = [None if score is None else float(score) for score in returned]
    except (TypeError, ValueError) as error:
        raise PaddError(
            f"the reward '{name}' returned something else than a list of numbers or None ({error}), so nothing can be "
            "learned from it; mend the function and start anew."
        ) from error
    if len(scores) != count:
        raise PaddError(
            f"the reward '{name}' returned {len(scores)} scores for {count} responses, so it is not known which is "
            "whose; return one a response, None where the reward does not apply."
        )
    broken = [score for score in scores if score is not None and not math.isfinite(score)]
    if broken:
        raise PaddError(
            f"the reward '{name}' returned {broken[0]}, so advantages would be undefined; return None where it "
            "does not apply."
        )
    return scores
