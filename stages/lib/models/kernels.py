"""Which of transformers' implementations compute attention and experts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self

from padd_artifacts.errors import UsageError
from padd_stages.lib.compat.transformers import attention_of
from padd_stages.lib.data.problems import first_line


class KernelOptions(Protocol):
    """Options of a stage that runs models."""

    @property
    def attn_implementation(self) -> str | None: ...
    @property
    def experts_implementation(self) -> str | None: ...


@dataclass(frozen=True)
class Kernels:
    """Names that transformers knows; None leaves the choice to it."""

    attention: str | None = None
    experts: str | None = None

    @classmethod
    def of(cls, options: KernelOptions) -> Self:
        """Return what a stage's options ask for."""
        return cls(options.attn_implementation, options.experts_implementation)

    def apply(self, model: Any, *, has_experts: bool) -> None:
        """Set them in a loaded model; a dense one has no experts to set.

        Raises:
            UsageError: transformers, this machine or this family of models has no such implementation.
        """
        if self.attention is not None:
            _set(
                "--attn-implementation",
                self.attention,
                model.set_attn_implementation,
                lambda: attention_of(model),
            )
        if self.experts is not None and has_experts:
            _set(
                "--experts-implementation",
                self.experts,
                model.set_experts_implementation,
                lambda: model.get_experts_implementation()[""],
            )


def _set(flag: str, name: str, change: Callable[[str], object], current: Callable[[], str | None]) -> None:
    try:
        change(name)
        if (kept := current()) != name:  # transformers only warns where a family has one way alone
            raise ValueError(f"this model keeps {kept}")
    except Exception as error:
        raise UsageError(
            f"{flag} {name} cannot be used ({first_line(error)}), so the run would compute with another; name one that "
            "this machine and this model have, or leave the option out for transformers' own choice."
        ) from error
