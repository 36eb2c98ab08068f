"""The two errors that are reported to the user: one sentence and an exit code each."""


class PaddError(Exception):
    """A refused or failed run: the message says what, the consequence and the way out (exit code 1)."""

    exit_code = 1


class UsageError(PaddError):
    """A wrong call or configuration (exit code 2)."""

    exit_code = 2
