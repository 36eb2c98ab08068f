"""The two errors that a user can meet; the command line turns each into one sentence and an exit code."""


class PaddError(Exception):
    """A refused or failed run: the message says what, the consequence and the way out (exit code 1)."""

    exit_code = 1


class UsageError(PaddError):
    """A wrong call or configuration (exit code 2)."""

    exit_code = 2
