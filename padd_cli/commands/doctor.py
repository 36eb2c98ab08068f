"""`padd doctor`."""

import importlib
import importlib.util
import os
import platform
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import typer

from padd_artifacts.provenance import library_versions, source_commit
from padd_cli.console.streams import print_json, set_up_logging
from padd_cli.flags import flags as flags_of
from padd_cli.stage_command import help_epilog
from padd_stages.lib.compat.probes import failures, known_versions, unknown_versions
from padd_stages.lib.models.names import ALIASES

EPILOG = help_epilog("the environment.", "nothing; its text is to be pasted into a report.", "padd doctor")
app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command("doctor", epilog=EPILOG)
def doctor(json_: flags_of.JSON = False) -> None:
    """Check what padd needs here: libraries and their insides, devices, memory, disk, model cache; list model names."""
    set_up_logging(0)
    found = diagnose()
    if json_:
        print_json(found)
    else:
        typer.echo(as_text(found), nl=False)
    if found["problems"]:
        raise typer.Exit(1)


# one module for each library of whose inside padd uses names
INSIDES = (
    *(f"padd_stages.lib.compat.{name}" for name in ("transformers", "torch", "accelerate", "math_verify")),
    "padd_cli.compat",
)
OPTIONAL = {  # by the package that an extra brings
    name: f"padd_stages.lib.compat.{name}" for name in ("torchao", "peft")
}
HF_VARIABLES = ("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_ENDPOINT")
GIB = 1 << 30


def diagnose() -> dict[str, Any]:
    """Return the state of the installation as JSON values; ``problems`` lists what will not work and the cures."""
    problems: list[str] = []
    commit, clean = source_commit()
    return {
        "padd": metadata.version("padd"),
        "commit": None if commit is None else commit + ("" if clean else " (with changes)"),
        "platform": platform.platform(),
        "versions": library_versions(),
        "internals": _internals(problems),
        "torch": _checked("torch", _torch, problems),
        "memory": _memory(),
        "disk": _disk(Path.cwd()),
        "faiss": _checked("faiss", _faiss, problems),
        "models": _model_cache(),
        "environment": {name: os.environ[name] for name in sorted(os.environ) if name.startswith("PADD_")},
        "aliases": dict(ALIASES),
        "problems": problems,
    }


def _internals(problems: list[str]) -> dict[str, str]:
    """Return, of each library whose internals padd uses, how many checks pass and which versions are known to work."""
    problems += unknown_versions()
    found = {}
    extras = [module for package, module in OPTIONAL.items() if importlib.util.find_spec(package)]
    for module in (*INSIDES, *extras):
        library = _checked(module, lambda module=module: importlib.import_module(module).LIBRARY, problems)
        if library is None:
            continue
        broken = failures(library)
        problems += broken
        passed, count = len(library.probes) - len(broken), len(library.probes)
        found[library.package] = (
            f"{passed} of {count} checks pass; known to work: {known_versions(library.package)}"
        )
    return found


def _checked(name: str, check: Callable[[], Any], problems: list[str]) -> Any:
    try:
        return check()
    except Exception as error:  # whatever is wrong with a library, the others are still worth reporting
        problems.append(f"{name} does not work here ({type(error).__name__}: {error}); install it again.")
        return None


def _torch() -> dict[str, Any]:
    torch = importlib.import_module("torch")
    gpus = [
        f"{torch.cuda.get_device_name(i)}, {torch.cuda.get_device_properties(i).total_memory / GIB:.1f} GiB"
        for i in range(torch.cuda.device_count())
    ]
    return {"version": torch.__version__, "threads": torch.get_num_threads(), "gpus": gpus}


def _memory() -> dict[str, float]:
    page = os.sysconf("SC_PAGE_SIZE")
    return {
        "total_gib": round(page * os.sysconf("SC_PHYS_PAGES") / GIB, 1),
        "free_gib": round(page * os.sysconf("SC_AVPHYS_PAGES") / GIB, 1),
        "cpus": os.cpu_count() or 0,
    }


def _disk(folder: Path) -> dict[str, Any]:
    usage = shutil.disk_usage(folder)
    return {"folder": str(folder), "free_gib": round(usage.free / GIB, 1)}


def _faiss() -> dict[str, Any]:
    faiss = importlib.import_module("faiss")
    return {"version": faiss.__version__, "threads": faiss.omp_get_max_threads()}


def _model_cache() -> dict[str, Any]:
    constants = importlib.import_module("huggingface_hub.constants")
    cache = Path(constants.HF_HUB_CACHE)
    held = sorted(path.name[len("models--") :].replace("--", "/") for path in cache.glob("models--*"))
    return {
        "cache": str(cache),
        "held": held,
        "offline": bool(constants.HF_HUB_OFFLINE),
        "variables": {name: os.environ[name] for name in HF_VARIABLES if name in os.environ},
    }


def as_text(found: dict[str, Any]) -> str:
    """Format a diagnosis as plain lines to paste."""
    lines: list[str] = []
    for name, value in found.items():
        lines += _lines(name, value, "")
    return "\n".join(lines) + "\n"


def _lines(name: str, value: Any, indent: str) -> list[str]:
    if isinstance(value, dict):
        inner = [line for key, part in value.items() for line in _lines(key, part, indent + "  ")]
        return [f"{indent}{name}:", *inner] if inner else [f"{indent}{name}: none"]
    if isinstance(value, list):
        return (
            [f"{indent}{name}:", *(f"{indent}  {part}" for part in value)]
            if value
            else [f"{indent}{name}: none"]
        )
    return [f"{indent}{name}: {'none' if value is None else value}"]
