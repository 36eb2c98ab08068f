"""`--without`: the method with stages left out (docs/METHOD.md, section 5, last row)."""

from collections.abc import Iterable
from typing import Any

from padd_artifacts.errors import UsageError
from padd_cli.flags.config import Config, nearest

# Stage -> the command that it is part of, and what that command's options become without it.
ABLATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "stage1": ("cluster", {"assign": "random"}),
    "stage2": ("train", {"phi": "fixed"}),
    "stage3": ("train", {"drift_lambda": 0.0}),
    "stage4": ("train", {"gamma": 0.0}),
}


def ablated_stages(command: str) -> list[str]:
    """Return the stages that a command can be run without."""
    return [stage for stage, (owner, _) in ABLATIONS.items() if owner == command]


def parse_without(names: str | Iterable[str], where: str) -> tuple[str, ...]:
    """Parse ``stage1,stage3``, or a list, into stages.

    Raises:
        UsageError: no such stage.
    """
    parts = names.split(",") if isinstance(names, str) else [str(name) for name in names]
    stages = tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
    for stage in stages:
        if stage not in ABLATIONS:
            raise UsageError(
                f"{where} names '{stage}', which is no stage to leave out{nearest(stage, ABLATIONS)}; "
                f"there are {', '.join(ABLATIONS)}."
            )
    return stages


def without_of(config: Config) -> tuple[str, ...]:
    """Return the stages that section ``pipeline:`` leaves out, for `padd run` and for its commands typed one by one.

    Raises:
        UsageError: no such stage.
    """
    names = config.sections.get("pipeline", {}).get("without") or ()
    return parse_without(names, f"'without' in section 'pipeline:' of {config.name}")


def check_owner(stages: Iterable[str], section: str) -> None:
    """Refuse a stage that belongs to another command.

    Raises:
        UsageError: the first such stage, with the command that it belongs to.
    """
    for stage in stages:
        owner, _ = ABLATIONS[stage]
        if owner != section:
            raise UsageError(
                f"--without {stage} would change nothing in {section}, since that stage is part of `padd {owner}`; "
                f"give it to `padd {owner}` and build on its result, or to `padd run`."
            )


def settings_without(section: str, stages: Iterable[str]) -> dict[str, tuple[str, Any]]:
    """Return option -> (stage, value) for the stages left out that belong to a section."""
    return {
        option: (stage, value)
        for stage in stages
        for option, value in ABLATIONS[stage][1].items()
        if ABLATIONS[stage][0] == section
    }
