"""The runs of methods as arguments of the command line."""

from collections.abc import Sequence
from pathlib import Path

from padd_artifacts.errors import UsageError


def parse_runs(words: Sequence[str]) -> dict[str, list[Path]]:
    """Parse ``NAME=DIR[,DIR...]`` and plain folders into folders by method, in the order of the arguments.

    Raises:
        UsageError: no name or no folder around ``=``, or a name that a folder alone would share with another method.
    """
    named: dict[str, list[Path]] = {}
    plain: set[str] = set()
    for word in words:
        name, given, listed = word.partition("=")
        if not given or Path(word).is_dir():
            name, folders = Path(word).resolve().name, [word]
            plain.add(name)
        else:
            name, folders = name.strip(), [folder for folder in listed.split(",") if folder]
        if not name or not folders:
            raise UsageError(
                f"'{word}' is not NAME=DIR[,DIR...], so it names no run of a method; write it so."
            )
        if name in plain and name in named:
            raise UsageError(
                f"'{word}' and another run are both called '{name}', so it is not known whether they are one method; "
                "write NAME=DIR for both, with one NAME for seeds of one method."
            )
        named.setdefault(name, []).extend(Path(folder) for folder in folders)
    return named
