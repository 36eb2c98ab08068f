"""Description of an option for the command line: its flag, shape, default and help panel.

Everything is read from the pydantic models of the stages' ``options.py``; nothing is stated twice.
"""

import types
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from padd_stages.lib.options.base import Inputs, Options, Positional, panel_of

Shape = Literal["bool", "choice", "list", "tuple", "scalar"]

# Placeholder for a value of each type in --help and in error sentences.
TYPE_METAVARS = {int: "INT", float: "NUMBER", str: "TEXT", Path: "PATH", bool: "BOOL"}
CHOICE_METAVAR = "CHOICE"
NONE_TEXT = "none"


@dataclass(frozen=True)
class FieldInfo:
    """One option: ``metavar`` stands for its value, ``default`` is its text or None if it is required."""

    name: str
    shape: Shape
    choices: tuple[str, ...]
    nullable: bool
    metavar: str
    default: str | None
    help: str
    panel: str
    positional: bool = False

    @property
    def flag(self) -> str:
        """The long flag, ``--learning-rate``, or the placeholder of a positional argument: ``RUN``."""
        return self.name.removesuffix("s").upper() if self.positional else flag_name(self.name)

    @property
    def environment(self) -> str:
        """The variable that sets it, ``PADD_LEARNING_RATE``."""
        return f"PADD_{self.name.upper()}"


def flag_name(name: str) -> str:
    """Convert ``learning_rate`` to ``--learning-rate``."""
    return "--" + name.replace("_", "-")


def fields_of(*models: type[Inputs] | type[Options]) -> dict[str, FieldInfo]:
    """Return the options of a command, in the order of the models' fields; ``seed`` comes last.

    Raises:
        TypeError: two models share a name (a mistake in this package).
    """
    found: dict[str, FieldInfo] = {}
    for model in models:
        for name in model.model_fields:
            if name in found:
                raise TypeError(f"two options are called '{name}'")
            found[name] = field_info(model, name)
    if "seed" in found:
        found["seed"] = found.pop("seed")
    return found


def field_info(model: type[BaseModel], name: str) -> FieldInfo:
    """Read one field of a model."""
    field = model.model_fields[name]
    annotation, nullable = _strip(field.annotation)
    shape, choices = _shape(annotation)
    panel = panel_of(model, name)
    if field.default_factory is not None:
        default: str | None = value_text(field.get_default(call_default_factory=True, validated_data={}))
    elif field.default is PydanticUndefined:
        default = None
    else:
        default = value_text(field.default)
    return FieldInfo(
        name=name,
        shape=shape,
        choices=choices,
        nullable=nullable,
        metavar=_metavar(annotation),
        default=default,
        help=panel.help,
        panel=type(panel).__name__,
        positional=isinstance(panel, Positional),
    )


def value_text(value: Any) -> str:
    """Format a value as one would type it: ``none``, ``0.1,0.2``, ``true``."""
    if value is None:
        return NONE_TEXT
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(value_text(part) for part in value) or NONE_TEXT
    return str(value)


def from_text(field: FieldInfo, text: Any) -> Any:
    """Convert the text of a flag or a variable to a value that the model can check (numbers are left to the model)."""
    if field.nullable and text == NONE_TEXT:
        return None
    if field.shape == "list" and text in (NONE_TEXT, [NONE_TEXT]):
        return []
    if field.shape in ("list", "tuple") and isinstance(text, str):
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def from_yaml(field: FieldInfo, value: Any) -> Any:
    """Convert a value of a config file; YAML 1.1 reads the words off, no, on and yes as booleans."""
    if field.shape == "choice" and isinstance(value, bool):
        words = ("on", "yes", "true") if value else ("off", "no", "false")
        return next((word for word in words if word in field.choices), value)
    if field.nullable and value == NONE_TEXT:
        return None
    if field.shape in ("list", "tuple") and isinstance(value, str):
        return from_text(field, value)
    return value


def _strip(annotation: Any) -> tuple[Any, bool]:
    """Strip Annotated and ``| None`` from a type; the bool is whether None is allowed."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, types.UnionType):
        members = [member for member in get_args(annotation) if member is not type(None)]
        nullable = len(members) < len(get_args(annotation))
        if len(members) == 1:
            return _strip(members[0])[0], nullable
        return Union[tuple(members)], nullable  # noqa: UP007 - built at run time
    return annotation, False


def _shape(annotation: Any) -> tuple[Shape, tuple[str, ...]]:
    origin = get_origin(annotation)
    if annotation is bool:
        return "bool", ()
    if origin is Literal:
        return "choice", tuple(str(choice) for choice in get_args(annotation))
    if origin is tuple and not (len(get_args(annotation)) == 2 and get_args(annotation)[1] is Ellipsis):
        return "tuple", ()
    if origin in (list, tuple, frozenset, set):
        return "list", _shape(_strip(get_args(annotation)[0])[0])[1]
    return "scalar", ()


def _metavar(annotation: Any) -> str:
    annotation, _ = _strip(annotation)
    origin = get_origin(annotation)
    if origin is Literal:
        return CHOICE_METAVAR
    if origin in (Union, types.UnionType):
        return "|".join(dict.fromkeys(_metavar(member) for member in get_args(annotation)))
    if origin is tuple and Ellipsis not in get_args(annotation):
        words = [_metavar(member) for member in get_args(annotation)]
        return f"{len(words)} {words[0]}S" if len(set(words)) == 1 else ",".join(words)
    if origin in (list, tuple, frozenset, set):
        return _metavar(get_args(annotation)[0])
    return TYPE_METAVARS.get(annotation, "TEXT")
