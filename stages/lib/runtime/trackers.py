"""Trackers that show a run beside its metrics.jsonl; their packages are imported only when one is asked for."""

import importlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self

from padd_artifacts.errors import UsageError

TrackerName = Literal["tensorboard", "wandb", "trackio"]

MODULES: dict[TrackerName, str] = {
    "tensorboard": "torch.utils.tensorboard",
    "wandb": "wandb",
    "trackio": "trackio",
}
PROJECT = "padd"


class _Tracker(Protocol):
    def log(self, metrics: dict[str, float], step: int) -> None: ...

    def finish(self) -> None: ...


class _TensorBoard:
    """Event files in a folder of the run's name."""

    def __init__(self, module: Any, folder: Path, config: Mapping[str, Any]) -> None:
        self._writer = module.SummaryWriter(str(folder))
        self._writer.add_text("config", f"```json\n{json.dumps(config, indent=2)}\n```")

    def log(self, metrics: dict[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self) -> None:
        self._writer.close()


class Trackers:
    """The trackers of a run; a context manager, so that they end with it."""

    def __init__(
        self, names: Sequence[TrackerName], *, run_name: str, config: Mapping[str, Any], folder: Path
    ) -> None:
        """config: JSON values that the tracker shows with the run; folder: where TensorBoard's files go.

        Raises:
            UsageError: a package that is not installed.
        """
        self._trackers: list[_Tracker] = []
        for name in names:
            module = load_tracker(name)
            if name == "tensorboard":
                self._trackers.append(_TensorBoard(module, folder / run_name, config))
            else:  # wandb's interface, which trackio has too
                self._trackers.append(module.init(project=PROJECT, name=run_name, config=dict(config)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for tracker in self._trackers:
            tracker.finish()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show the metrics of a step; those that are not finite are left out."""
        shown = {name: value for name, value in metrics.items() if math.isfinite(value)}
        for tracker in self._trackers:
            tracker.log(shown, step=step)


def load_tracker(name: TrackerName) -> Any:
    """The tracker's module.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return importlib.import_module(MODULES[name])
    except ImportError as error:
        raise UsageError(
            f"--tracker {name} needs a package that is not installed ({error}); `pip install {name}`, or leave it out."
        ) from error
