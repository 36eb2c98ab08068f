"""Progress of a stage, independent of its display."""

from typing import Protocol


class Reporter(Protocol):
    """A receiver of progress: the command line shows it, tests record it."""

    def phase(self, name: str, total: int | None = None) -> None:
        """Begin a new phase, of ``total`` units if that is known."""

    def advance(self, n: int = 1, line: str = "") -> None:
        """Count ``n`` more units as done; ``line`` describes them in a log."""

    def note(self, text: str) -> None:
        """Report something unusual, in one line."""

    def warn(self, text: str) -> None:
        """Report a likely mistake; the text names the cure."""


class _Silent:
    def phase(self, name: str, total: int | None = None) -> None:
        pass

    def advance(self, n: int = 1, line: str = "") -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        pass


SILENT: Reporter = _Silent()
