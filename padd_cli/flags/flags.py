"""The flags of a command, made from its pydantic models: one wording, one default, for all commands.

All flags are None inside when they are not given, so that :mod:`padd_cli.flags.resolve` knows what was; checking is
left to the models, so that flags, environment and files are refused with the same sentence.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer
from rich.markup import escape

from padd_cli.flags.fields import FieldInfo, fields_of
from padd_stages.lib.options.base import Inputs, Options

RUN_PANEL = "Run"

# Flags of the commands that take a pipeline.
PIPELINE = Annotated[str, typer.Argument(metavar="PRESET", help="Name of a preset, or a YAML file.")]
PIPELINE_TEACHER = Annotated[
    str | None,
    typer.Option(
        "--teacher", metavar="MODEL", help="Another teacher than the preset's.", rich_help_panel="Artifacts"
    ),
]
PIPELINE_STUDENT = Annotated[
    str | None,
    typer.Option(
        "--student", metavar="MODEL", help="Another student than the preset's.", rich_help_panel="Artifacts"
    ),
]

# Flags that every stage command has; their types are what typer parses.
OUT = Annotated[
    str | None,
    typer.Option(
        "--out", metavar="DIR", help="Folder of the result; new or empty.", rich_help_panel="Artifacts"
    ),
]
FORCE = Annotated[
    bool,
    typer.Option(
        "--force",
        metavar="",
        help="Replace --out if it is an artifact of the same kind.",
        rich_help_panel=RUN_PANEL,
    ),
]
RESUME = Annotated[
    bool, typer.Option("--resume", metavar="", help="Continue an interrupted run.", rich_help_panel=RUN_PANEL)
]
CONFIG = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="NAME|FILE",
        help="Preset or YAML file; its section for this command is read.",
        rich_help_panel=RUN_PANEL,
    ),
]
SECTION = Annotated[
    str | None,
    typer.Option(
        "--section",
        metavar="NAME",
        help="Section of --config to read (teacher-grpo for Stage 0).",
        rich_help_panel=RUN_PANEL,
    ),
]
PRESET = Annotated[
    str | None,
    typer.Option(
        "--preset",
        metavar="NAME|FILE",
        help="Method preset: literal, grpo, padd, ... or a file (below --config, above the defaults).",
        rich_help_panel=RUN_PANEL,
    ),
]
WITHOUT = Annotated[
    str | None,
    typer.Option(
        "--without",
        metavar="STAGES",
        help="Ablation: leave stages out, e.g. stage2,stage3 (below a flag, above the environment).",
        rich_help_panel=RUN_PANEL,
    ),
]
DRY_RUN = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        metavar="",
        help="Check everything, print the plan, write nothing.",
        rich_help_panel=RUN_PANEL,
    ),
]
JSON = Annotated[
    bool,
    typer.Option(
        "--json", metavar="", help="The result as JSON on stdout, nothing else.", rich_help_panel=RUN_PANEL
    ),
]
QUIET = Annotated[
    bool,
    typer.Option("-q", "--quiet", metavar="", help="Only warnings and errors.", rich_help_panel=RUN_PANEL),
]
VERBOSE = Annotated[
    int,
    typer.Option(
        "-v",
        "--verbose",
        metavar="",
        count=True,
        show_default=False,
        help="Say more; -vv: tracebacks too.",
        rich_help_panel=RUN_PANEL,
    ),
]


def with_flags(
    body: Callable[..., None],
    inputs: type[Inputs],
    options: type[Options],
    common: Mapping[str, tuple[Any, Any]],
) -> Callable[..., None]:
    """Build a function that typer reads as a command with one flag per field, calling ``body``.

    Args:
        body: called as ``body(flags, **common_values)`` with ``flags`` the fields' values, None where not given.
        inputs: fields of the Artifacts panel.
        options: the other fields.
        common: name -> (annotation, default) of the flags that are no fields.

    Raises:
        TypeError: a field has the name of a common flag (a mistake in this package).
    """
    fields = fields_of(inputs, options)
    clash = set(fields) & set(common)
    if clash:
        raise TypeError(f"fields and common flags are both called {sorted(clash)}")

    def command(**values: Any) -> None:
        flags = {
            name: (values[name] or None) if field.positional else values[name]
            for name, field in fields.items()
        }
        body(flags, **{name: values[name] for name in common})

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter(field.name, keyword, default=None, annotation=flag_annotation(field))
        for field in fields.values()
    ]
    parameters += [
        inspect.Parameter(name, keyword, default=default, annotation=annotation)
        for name, (annotation, default) in common.items()
    ]
    command.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def flag_annotation(field: FieldInfo) -> Any:
    """Return the typer annotation of one field: text, a repeated text, a pair of switches, or words."""
    flag = field.flag
    text = field.help
    if field.positional:
        return Annotated[
            list[str] | None, typer.Argument(metavar=flag, show_default=False, help=escape(text))
        ]
    if field.choices:
        text += f" [{'|'.join(field.choices)}]"
    if field.default is not None:
        text += f" [default: {field.default}]"
    shown: dict[str, Any] = {"help": escape(text), "rich_help_panel": field.panel, "show_default": False}
    if field.shape == "bool":
        return Annotated[
            bool | None, typer.Option(f"{flag}/--no-{flag.removeprefix('--')}", metavar="", **shown)
        ]
    shown["metavar"] = field.metavar
    if field.choices:
        shown["autocompletion"] = _completion(field.choices)
    if field.shape == "list":
        return Annotated[list[str] | None, typer.Option(flag, **shown)]
    return Annotated[str | None, typer.Option(flag, **shown)]


def _completion(choices: tuple[str, ...]) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return [choice for choice in choices if choice.startswith(incomplete)]

    return complete
