"""Probes of installed libraries for the interfaces that padd uses, and the versions that are known to work.

The versions are those of padd's own requirements (pyproject.toml), of which the lowest and the highest were tested.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from padd_artifacts.errors import PaddError

if TYPE_CHECKING:
    from packaging.requirements import Requirement


@dataclass(frozen=True)
class Probe:
    """One use of names that a library does not promise to keep.

    Attributes:
        names: what is used, as one would search for it.
        purpose: what padd does with it; completes "so padd cannot ...".
        check: raises any exception if the library does not behave as padd needs; takes milliseconds.
    """

    names: str
    purpose: str
    check: Callable[[], None]


@dataclass(frozen=True)
class Library:
    """A library by the name it is installed under, with the probes of its interfaces that padd uses."""

    package: str
    probes: tuple[Probe, ...]


def known_versions(package: str) -> str:
    """Return the tested versions as a specifier: ``>=5.21,<5.25``; empty where there is no bound."""
    for requirement in _requirements(extras=True):
        if requirement.name == package:
            return ",".join(sorted(str(requirement.specifier).split(","), reverse=True))
    return ""


def unknown_versions() -> list[str]:
    """Return a sentence for each requirement of padd whose installed version is not among the tested ones."""
    found = []
    for requirement in _requirements():
        name, installed = requirement.name, _installed(requirement.name)
        if installed is None:
            found.append(f"{name} is not installed, and padd cannot do without; {_cure(name)}.")
        elif not requirement.specifier.contains(installed, prereleases=True):
            found.append(
                f"{name} {installed} is not among the versions that padd was run with ({known_versions(name)}), so "
                f"results may be wrong; {_cure(name)}."
            )
    return found


def _requirements(*, extras: bool = False) -> "list[Requirement]":
    """Return the requirements of padd itself, and of its extras if asked for."""
    from importlib import metadata  # here, since `padd --help` needs neither

    from packaging.requirements import Requirement

    found = [Requirement(line) for line in metadata.requires("padd") or ()]
    return [requirement for requirement in found if extras or requirement.marker is None]


@cache
def failures(library: Library) -> tuple[str, ...]:
    """Return a sentence for each probe that fails; probes run once a process."""
    found = []
    for probe in library.probes:
        try:
            probe.check()
        except Exception as error:  # any exception means that the library differs from the tested ones
            found.append(failure_sentence(library.package, probe.names, probe.purpose, error))
    return tuple(found)


def require(library: Library) -> None:
    """Refuse a library whose interfaces have changed.

    Raises:
        PaddError: a probe fails.
    """
    for found in failures(library):
        raise PaddError(found)


def failure_sentence(package: str, names: str, purpose: str, error: Exception) -> str:
    """Return the error sentence of changed interfaces; ``names`` and ``purpose`` as of a `Probe`."""
    reason = (str(error).strip().splitlines() or [""])[0][:200]
    return (
        f"{package} {_installed(package) or '(not installed)'} lacks an interface that padd uses ({names}: "
        f"{type(error).__name__}{': ' + reason if reason else ''}), so padd cannot {purpose}; padd is known to work "
        f"with {package}{known_versions(package)}: {_cure(package)}."
    )


def _installed(package: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cure(package: str) -> str:
    return f"`pip install '{package}{known_versions(package)}'`"
