"""How a stage tells of its progress without knowing who listens."""

from typing import Protocol


class Reporter(Protocol):
    """Receives progress; the command line shows it, tests record it."""

    def phase(self, name: str, total: int | None = None) -> None:
        """A new phase begins, of ``total`` units if that is known."""

    def advance(self, n: int = 1, line: str = "") -> None:
        """``n`` more units are done; ``line`` is what a log would say of them."""

    def note(self, text: str) -> None:
        """Something unusual, one line."""

    def warn(self, text: str) -> None:
        """A likely mistake; the text says the cure."""


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
