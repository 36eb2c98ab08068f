"""Base classes of inputs and options: one place for name, type, default, bounds, help and help panel.

The command line makes its flags from these models, ``--config`` files are checked against them, and the
manifest records them. Nothing here imports torch.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field


@dataclass(frozen=True)
class Panel:
    """Help text of an option and the panel of ``--help`` that it stands in."""

    help: str


class Artifacts(Panel):
    """An input of a stage."""


class Positional(Artifacts):
    """An input given as positional arguments of the command line instead of by a flag."""


class Method(Panel):
    """An option that changes the result by docs/METHOD.md's formulas."""


class Training(Panel):
    """An option that changes the result by how it is optimised."""


class Run(Panel):
    """An option that changes how the result is reached, not the result: outside the digest."""


class Inputs(BaseModel):
    """Paths and model names that a stage reads."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def paths(self) -> list[Path]:
        """Return every file and folder here that the inputs name, so that --out cannot take the place of one."""
        values = [value for _, value in self]
        words = [word for value in values for word in (value if isinstance(value, list) else [value])]
        named = [Path(word).expanduser() for word in words if isinstance(word, str | Path) and str(word)]
        return [path for path in named if os.path.exists(path)]


class Options(BaseModel):
    """The options of a stage; every stage has a seed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    seed: Annotated[int, Method("Seed of everything that is random in this stage.")] = Field(0, ge=0)

    def method(self) -> dict[str, Any]:
        """Return the options that change the result, without the seed, as JSON values."""
        return self._dump(run=False)

    def run_only(self) -> dict[str, Any]:
        """Return the options that change only how the result is reached."""
        return self._dump(run=True)

    def _dump(self, *, run: bool) -> dict[str, Any]:
        values = self.model_dump(mode="json", exclude={"seed"})
        return {name: value for name, value in values.items() if isinstance(panel_of(self, name), Run) == run}


def panel_of(model: BaseModel | type[BaseModel], name: str) -> Panel:
    """Return the panel marker of a field.

    Raises:
        TypeError: the field was declared without one (a mistake in this package, not of the user).
    """
    kind = model if isinstance(model, type) else type(model)
    for marker in kind.model_fields[name].metadata:
        if isinstance(marker, Panel):
            return marker
    raise TypeError(f"{kind.__name__}.{name} has no panel")
