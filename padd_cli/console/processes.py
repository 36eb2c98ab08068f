"""What the command line does where a launcher (torchrun, accelerate) started several processes of it."""

import importlib
import os

from padd_artifacts.errors import UsageError
from padd_stages.lib.runtime.launcher import process_count


def is_first_process() -> bool:
    """Whether this is the process that shows progress and results."""
    return os.environ.get("RANK", "0") == "0"


def may_say_error() -> bool:
    """Of several processes the first that fails says why; the others fail because of it, or alike."""
    return (
        process_count() == 1 or importlib.import_module("padd_stages.lib.runtime.processes").first_to_fail()
    )


def refuse_launcher(command: str) -> None:
    """For commands of one process.

    Raises:
        UsageError: a launcher started several.
    """
    if process_count() > 1:
        raise UsageError(
            f"`padd {command}` was started on {process_count()} processes, which would write over each other; "
            "start it without a launcher."
        )
