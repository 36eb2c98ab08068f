"""Names of models: a local folder, a hub id, or a short name for the models of the paper. Imports no torch."""

from pathlib import Path
from typing import NamedTuple

from padd_artifacts.errors import PaddError

ALIASES: dict[str, str] = {
    "Qwen2.5-Math-7B": "Qwen/Qwen2.5-Math-7B",
    "Qwen2.5-Math-7B-Instruct": "Qwen/Qwen2.5-Math-7B-Instruct",
    "Qwen2.5-Math-1.5B": "Qwen/Qwen2.5-Math-1.5B",
    "Qwen3-30B-A3B": "Qwen/Qwen3-30B-A3B",
    "Qwen3-30B-A3B-Base": "Qwen/Qwen3-30B-A3B-Base",
    "DeepSeek-Math-7B": "deepseek-ai/deepseek-math-7b-base",
    "DeepSeek-Math-7B-Instruct": "deepseek-ai/deepseek-math-7b-instruct",
    "DeepSeek-V2-Lite": "deepseek-ai/DeepSeek-V2-Lite",
    "DeepSeek-V2-Lite-Chat": "deepseek-ai/DeepSeek-V2-Lite-Chat",
    "OLMoE-1B-7B": "allenai/OLMoE-1B-7B-0924",
    "SmolLM2-135M-Instruct": "HuggingFaceTB/SmolLM2-135M-Instruct",
}


class ModelName(NamedTuple):
    """A user's model name, resolved: exactly one of ``folder`` and ``hub_id`` is set."""

    given: str
    folder: Path | None
    hub_id: str | None

    @property
    def source(self) -> str:
        """The argument for transformers' ``from_pretrained``."""
        return str(self.folder) if self.folder is not None else str(self.hub_id)


def parse_model_name(name: str) -> ModelName:
    """Resolve a name: folder first, then short name, then hub id.

    Raises:
        PaddError: an existing path that is no folder with a ``config.json``, or a path-like name that does not exist.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise PaddError(
                f"{path} has no config.json, so it is not a model folder; "
                "name the folder that holds config.json and the safetensors files."
            )
        return ModelName(name, path, None)
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise PaddError(
            f"there is no model folder at {path}, so no model can be loaded; "
            "give an existing folder, a hub id (owner/name) or a short name that `padd doctor` lists."
        )
    if name in ALIASES:
        return ModelName(name, None, ALIASES[name])
    if "/" not in name:
        raise PaddError(
            f"'{name}' is neither a folder here, nor a hub id (owner/name), nor one of padd's short names, so no model "
            "can be loaded; give one of these (`padd doctor` lists the short names)."
        )
    return ModelName(name, None, name)
