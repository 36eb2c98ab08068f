"""Config files: YAML with one section per command. Unknown names are refused with the nearest known one."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from padd_artifacts.errors import UsageError

# Section of a config file -> the command that reads it. Stage 0 is `train` on the teacher itself.
SECTIONS = {
    "toy": "toy",
    "split-data": "split-data",
    "teacher-grpo": "train",
    "cluster": "cluster",
    "warmup": "warmup",
    "train": "train",
    "eval": "eval",
    "analyze-experts": "analyze-experts",
    "compare": "compare",
    "report": "report",
    "export": "export",
    "pipeline": "run",
}
# Method preset of a section that names none: Stage 0 is plain GRPO (docs/METHOD.md, section 0).
DEFAULT_METHODS = {"teacher-grpo": "grpo"}


@dataclass(frozen=True)
class Config:
    """A parsed config file; keys of sections are snake_case and not yet checked against a command."""

    name: str
    sections: dict[str, dict[str, Any]]

    def section(self, name: str, known: Iterable[str]) -> dict[str, Any]:
        """Return the keys of one section, all of them known.

        Raises:
            UsageError: a key that the command does not have.
        """
        values = self.sections.get(name, {})
        check_keys(values, known, where=f"section '{name}:' of {self.name}")
        return values


def preset_names() -> list[str]:
    """Return the names of the presets that padd ships."""
    return _names(resources.files("padd_cli") / "presets")


def method_names(command: str | None = None) -> list[str]:
    """Return the names of the method presets that padd ships; those for ``command --preset`` if a command is named."""
    folder = resources.files("padd_cli") / "presets" / "methods"
    names = _names(folder)
    return [name for name in names if command in (None, *_load_mapping(folder / f"{name}.yaml", name))]


def load_config(name_or_path: str) -> Config:
    """Read a shipped preset by name or a file by path.

    Raises:
        UsageError: neither; not YAML; not a mapping of mappings; an unknown section.
    """
    source = _find(name_or_path, preset_names(), resources.files("padd_cli") / "presets", "preset")
    raw = _load_mapping(source, name_or_path)
    sections: dict[str, dict[str, Any]] = {}
    for key, values in raw.items():
        section = str(key).replace("_", "-")
        if section not in SECTIONS:
            raise UsageError(
                f"{name_or_path} has a section '{key}:' that no command reads{nearest(section, SECTIONS)}; "
                f"the sections are {', '.join(SECTIONS)}."
            )
        if values is not None and not isinstance(values, dict):
            raise UsageError(
                f"section '{key}:' of {name_or_path} is {values!r} where option names with values are needed; "
                f"write lines such as 'seed: 1' below it."
            )
        sections[section] = _snake(values or {})
    return Config(name=name_or_path, sections=sections)


def load_method(name_or_path: str, command: str, known: Iterable[str]) -> dict[str, Any]:
    """Read the options that a method preset (``grpo``, ``padd``, ...) sets for one command.

    Raises:
        UsageError: no such preset, nothing in it for the command, not a mapping, an unknown option.
    """
    folder = resources.files("padd_cli") / "presets" / "methods"
    source = _find(name_or_path, method_names(command), folder, "method preset")
    sections = _load_mapping(source, name_or_path)
    if not isinstance(sections.get(command), dict):
        raise UsageError(
            f"method preset {name_or_path} has no section '{command}:' with options below it, so it says nothing to "
            f"`padd {command}`; the presets that do are {', '.join(method_names(command))}."
        )
    values = _snake(sections[command])
    check_keys(values, known, where=f"method preset {name_or_path}")
    return values


def check_keys(values: Iterable[str], known: Iterable[str], *, where: str) -> None:
    """Refuse the first unknown key, naming the nearest known one.

    Raises:
        UsageError: an unknown key.
    """
    names = list(known)
    for key in values:
        if key not in names:
            raise UsageError(
                f"{where} sets '{key}', which is no option there{nearest(key, names)}; "
                "`padd COMMAND --help` lists the options."
            )


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the known name closest to an unknown one, as a question to add to an error; empty if none is close."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean '{near[0]}'?)" if near else ""


def _names(folder: Traversable) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(
        entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")
    )


def _find(name: str, shipped: list[str], folder: Traversable, what: str) -> Traversable:
    if name in shipped:
        return folder / f"{name}.yaml"
    path = Path(name)
    if path.is_file():
        return path
    raise UsageError(
        f"'{name}' is neither a file nor a {what} of padd{nearest(name, shipped)}; "
        f"there are {', '.join(shipped) or 'none'}."
    )


def _load_mapping(source: Traversable, name: str) -> dict[Any, Any]:
    try:
        raw = yaml.safe_load(source.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UsageError(f"{name} is not a text file in UTF-8, so it cannot be read as YAML.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "it cannot be parsed"
        raise UsageError(
            f"{name} is not valid YAML{line} ({problem}), so no option is taken from it."
        ) from error
    if not isinstance(raw, dict):
        found = "empty" if raw is None else f"a {type(raw).__name__}"
        raise UsageError(
            f"{name} is {found} where a mapping is needed; start it with a line such as 'train:'."
        )
    return raw


def _snake(values: dict[Any, Any]) -> dict[str, Any]:
    return {str(key).replace("-", "_"): value for key, value in values.items()}
