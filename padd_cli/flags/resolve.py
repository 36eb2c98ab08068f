"""Resolution of flags, environment, config file and defaults to checked inputs and options with their sources.

Precedence: flag, then ``--without``, then ``PADD_*`` variable, then ``--config`` file, then method preset, then the
default.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from padd_artifacts.errors import UsageError
from padd_cli.flags.ablations import settings_without
from padd_cli.flags.config import DEFAULT_METHODS, SECTIONS, Config, load_method
from padd_cli.flags.fields import FieldInfo, fields_of, from_text, from_yaml, value_text
from padd_stages.lib.options.base import Inputs, Options

InputsT = TypeVar("InputsT", bound=Inputs)
OptionsT = TypeVar("OptionsT", bound=Options)

# Keys of a section that are no options of the stage.
OUT_KEY = "out"
PRESET_KEY = "preset"


@dataclass(frozen=True)
class RawSettings:
    """Unchecked settings of one command, from all sources."""

    flags: Mapping[str, Any]
    environ: Mapping[str, str]
    config: Config | None = None
    section: str = ""
    preset: str | None = None
    presets_allowed: bool = False
    flag_source: str = "flag"
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class Resolved(Generic[InputsT, OptionsT]):
    """Checked inputs and options.

    Attributes:
        sources: of each, where it came from.
        out: if a section names it.
        paths: files and folders that the command reads: its inputs, the config file, the method preset's file.
    """

    inputs: InputsT
    options: OptionsT
    sources: dict[str, str]
    out: Path | None
    paths: tuple[Path, ...]


@dataclass(frozen=True)
class _Value:
    value: Any
    source: str
    spelled: str
    """What to call it in an error: the flag, the variable or the key."""


def resolve(inputs: type[InputsT], options: type[OptionsT], raw: RawSettings) -> Resolved[InputsT, OptionsT]:
    """Set every input and option from the strongest source that gives it.

    Raises:
        UsageError: an unknown key, a value that is not allowed, or a required input that nobody gives.
    """
    fields = fields_of(inputs, options)
    extra = [OUT_KEY, PRESET_KEY] if raw.presets_allowed else [OUT_KEY]
    section = dict(raw.config.section(raw.section, [*fields, *extra])) if raw.config else {}
    out = section.pop(OUT_KEY, None)
    in_section = section.pop(PRESET_KEY, None)
    preset = raw.preset or in_section or DEFAULT_METHODS.get(raw.section)
    method: dict[str, Any] = {}
    if preset is not None:
        method = load_method(str(preset), SECTIONS[raw.section], options.model_fields)
    ablated = settings_without(raw.section, raw.without)
    values: dict[str, _Value] = {}
    for name, field in fields.items():
        if name in ablated:
            value = _left_out(field, raw, *ablated[name])
        else:
            value = _strongest(field, raw, section, method, str(preset))
        if value is not None:
            values[name] = value
    checked_inputs = _validate(inputs, fields, values, raw.section)
    checked_options = _validate(options, fields, values, raw.section)
    sources = {name: values[name].source if name in values else "default" for name in fields}
    files = [Path(str(name)) for name in (raw.config and raw.config.name, preset) if name is not None]
    return Resolved(
        checked_inputs,
        checked_options,
        sources,
        Path(str(out)) if out is not None else None,
        (*checked_inputs.paths(), *(path for path in files if path.is_file())),
    )


def _left_out(field: FieldInfo, raw: RawSettings, stage: str, value: Any) -> _Value:
    flag = raw.flags.get(field.name)
    if flag is not None:
        raise UsageError(
            f"{field.flag} {flag} contradicts --without {stage}, which takes {value_text(value)}; leave one out."
        )
    return _Value(value, f"without:{stage}", f"--without {stage}")


def _strongest(
    field: FieldInfo, raw: RawSettings, section: Mapping[str, Any], method: Mapping[str, Any], preset: str
) -> _Value | None:
    flag = raw.flags.get(field.name)
    if flag is not None:
        return _Value(from_text(field, flag), raw.flag_source, field.flag)
    variable = raw.environ.get(field.environment)
    if variable is not None and variable != "":
        return _Value(from_text(field, variable), "environment", field.environment)
    if field.name in section:
        name = raw.config.name if raw.config else ""
        spelled = f"'{field.name}' in section '{raw.section}:' of {name}"
        return _Value(from_yaml(field, section[field.name]), f"file:{name}", spelled)
    if field.name in method:
        spelled = f"'{field.name}' in method preset {preset}"
        return _Value(from_yaml(field, method[field.name]), f"preset:{preset}", spelled)
    return None


ModelT = TypeVar("ModelT", bound=Inputs | Options)


def _validate(
    model: type[ModelT], fields: Mapping[str, FieldInfo], values: Mapping[str, _Value], section: str
) -> ModelT:
    own = {name: value.value for name, value in values.items() if name in model.model_fields}
    try:
        return model(**own)
    except ValidationError as error:
        raise UsageError(_sentence(error.errors()[0], fields, values, section)) from error


def _sentence(
    error: ErrorDetails, fields: Mapping[str, FieldInfo], values: Mapping[str, _Value], section: str
) -> str:
    """Return one sentence with the name as the user gave it, the value, and what is allowed."""
    if not error["loc"]:
        return _plain_message(error)
    field = fields[str(error["loc"][0])]
    if error["type"] == "missing" and field.name not in values:
        how = "write words of that form" if field.positional else "give the flag"
        return (
            f"{field.flag} is needed ({field.help.rstrip('.')}); {how}, set {field.environment} "
            f"or write '{field.name}' in section '{section}:' of a --config file."
        )
    value = values[field.name]
    return f"{value.spelled} is {value_text(value.value)!r}, but {_allowed(error, field)}."


def _plain_message(error: ErrorDetails) -> str:
    cause = (error.get("ctx") or {}).get("error")
    message = str(cause) if cause is not None else error["msg"]
    return message if message.endswith(".") else message + "."


def _allowed(error: ErrorDetails, field: FieldInfo) -> str:
    kind = error["type"]
    if field.choices:
        return f"it must be one of {', '.join(field.choices)}"
    if kind == "value_error":
        return _plain_message(error).rstrip(".")
    if kind in ("int_parsing", "int_type", "int_from_float"):
        return "it must be a whole number"
    if kind in ("float_parsing", "float_type", "finite_number"):
        return "it must be a number"
    if kind in ("bool_parsing", "bool_type"):
        return "it must be true or false"
    if kind in ("too_short", "too_long", "missing") and field.shape == "tuple":
        return f"it must be {field.metavar.lower()} with commas between"
    message = error["msg"].replace("Input should", "it must")
    return message[0].lower() + message[1:].replace("should", "must")
