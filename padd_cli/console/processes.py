"""Behaviour of the command line where a launcher (torchrun, accelerate) started several processes of it."""

import importlib

from padd_artifacts.errors import UsageError
from padd_stages.lib.runtime.launcher import process_count


def may_print_error() -> bool:
    """Return whether this process reports an error: the first that fails does, the others fail because of it."""
    return (
        process_count() == 1 or importlib.import_module("padd_stages.lib.runtime.processes").first_to_fail()
    )


def refuse_launcher(command: str, cure: str = "start it without a launcher") -> None:
    """Refuse several processes, for commands that run in one.

    Raises:
        UsageError: a launcher started several.
    """
    if process_count() > 1:
        raise UsageError(
            f"`padd {command}` was started on {process_count()} processes, which would write over each other; "
            f"{cure}."
        )
