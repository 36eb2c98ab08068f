"""Trackers that show a run's metrics beside its metrics.jsonl: accelerate's, imported only when configured."""

import importlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from padd_artifacts.errors import UsageError

TrackerName = Literal["tensorboard", "wandb", "trackio"]

MODULES: dict[TrackerName, str] = {
    "tensorboard": "torch.utils.tensorboard",
    "wandb": "wandb",
    "trackio": "trackio",
}
PROJECT = "padd"


class Trackers:
    """The trackers of a run, as a context manager that ends them with it."""

    def __init__(
        self, names: Sequence[TrackerName], *, run_name: str, config: Mapping[str, Any], folder: Path
    ) -> None:
        """Start the trackers.

        Args:
            config: JSON values that are shown with the run; lists as their JSON, since TensorBoard takes no others.
            folder: where TensorBoard's files go.

        Raises:
            UsageError: a package that is not installed.
        """
        self._trackers = [start_tracker(name, run_name, folder) for name in names]
        for tracker in self._trackers:
            tracker.store_init_configuration(
                {k: json.dumps(v) if isinstance(v, (list, dict)) else v for k, v in config.items()}
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for tracker in self._trackers:
            tracker.finish()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show the finite metrics of a step."""
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        for tracker in self._trackers:
            tracker.log(finite, step=step)


def start_tracker(name: TrackerName, run_name: str, folder: Path) -> Any:
    """Start one of accelerate's trackers; UsageError as :func:`require_tracker`."""
    from accelerate.tracking import TensorBoardTracker, TrackioTracker, WandBTracker

    require_tracker(name)
    if name == "tensorboard":
        tracker = TensorBoardTracker(run_name, folder)
    else:  # accelerate calls the project run_name
        tracker = {"wandb": WandBTracker, "trackio": TrackioTracker}[name](PROJECT, name=run_name)
    tracker.start()
    return tracker


def require_tracker(name: TrackerName) -> None:
    """Check that a tracker's package is installed.

    Raises:
        UsageError: it is not installed.
    """
    try:
        importlib.import_module(MODULES[name])
    except ImportError as error:
        raise UsageError(
            f"--tracker {name} needs a package that is not installed ({error}); `pip install {name}`, or leave it out."
        ) from error
