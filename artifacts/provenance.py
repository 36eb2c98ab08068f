"""Provenance of a result: library versions, commit, machine, time and memory. Never part of a digest."""

import datetime
import platform
import resource
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from padd_artifacts.manifest import Provenance

LIBRARIES = (
    "padd",
    "torch",
    "transformers",
    "numpy",
    "faiss-cpu",
    "safetensors",
    "datasets",
    "accelerate",
    "math-verify",
)


def library_versions() -> dict[str, str]:
    """Return installed versions of the libraries that results depend on."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "absent"
    return versions


def source_commit() -> tuple[str | None, bool | None]:
    """Return the commit of the checkout that padd runs from and whether it is clean; (None, None) if installed."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None, None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit, _git(root, "status", "--porcelain") == ""
    except (OSError, subprocess.SubprocessError):
        return None, None


def _git(root: Path, *arguments: str) -> str:
    result = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True
    )
    return result.stdout.strip()


def peak_memory_mb() -> float:
    """Return the peak resident memory of this process, in MB (10^6 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bytes_per_unit = 1 if sys.platform == "darwin" else 1024
    return peak * bytes_per_unit / 1e6


def collect_provenance(
    *, command: str, option_sources: dict[str, str], run_options: dict[str, Any], wall_seconds: float
) -> Provenance:
    """Fill a :class:`Provenance` for an artifact that is about to be sealed."""
    commit, clean = source_commit()
    return Provenance(
        command=command,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        option_sources=option_sources,
        run_options=run_options,
        versions=library_versions(),
        commit=commit,
        tree_clean=clean,
        platform=platform.platform(),
        wall_seconds=round(wall_seconds, 3),
        peak_memory_mb=round(peak_memory_mb(), 1),
    )
