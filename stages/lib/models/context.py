"""Positions that a model reads beyond those that its configuration names."""

from dataclasses import dataclass
from typing import Any

from padd_artifacts.errors import PaddError


@dataclass(frozen=True)
class Context:
    """Changes of a configuration; None leaves it as it is."""

    max_positions: int | None = None
    rope_theta: float | None = None

    def apply(self, config: Any, name: str) -> None:
        """Change a model's configuration in place.

        Raises:
            PaddError: its positions are no rotary embeddings of one base, or it learnt one for each position.
        """
        text = config.get_text_config()
        rope = getattr(text, "rope_parameters", None) or {}
        if (self.max_positions, self.rope_theta) != (None, None) and "rope_theta" not in rope:
            raise PaddError(
                f"{name} ({config.model_type}) has no rotary embeddings of one base, so its positions cannot be "
                "extended; leave --teacher-max-positions and --teacher-rope-theta out."
            )
        if self.max_positions is not None:
            text.max_position_embeddings = self.max_positions
        if self.rope_theta is not None:
            rope["rope_theta"] = self.rope_theta
