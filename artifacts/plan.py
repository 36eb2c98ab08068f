"""Plan of a stage before it runs: used by ``--dry-run`` and to skip what is up to date."""

from dataclasses import dataclass, field
from typing import Any, Protocol

from padd_artifacts.manifest import Parent, recipe_key


class MethodOptions(Protocol):
    """A stage's validated options."""

    seed: int

    def method(self) -> dict[str, Any]:
        """Return the options that change the result, as JSON values."""
        ...

    def run_only(self) -> dict[str, Any]:
        """Return the options that change only how the result is reached."""
        ...


@dataclass(frozen=True)
class Plan:
    """A stage's resolved inputs and options. ``sizes`` is for people (rows, layers, tokens)."""

    kind: str
    options: MethodOptions
    parents: dict[str, Parent]
    sizes: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The recipe key that the artifact will carry."""
        return recipe_key(self.kind, self.options.method(), self.options.seed, self.parents)
