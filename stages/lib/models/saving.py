"""Saving of a student together with the state of its router."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from padd_artifacts.manifest import sha256_file
from padd_artifacts.space import reserving_space
from padd_stages.lib.models.loading import CONFIG_KEY, ROUTER_STATE_FILE, WORD_ROUTES, LanguageModel


def save_model(
    folder: Path, language_model: LanguageModel, state_dict: dict[str, Tensor] | None = None
) -> None:
    """Write a transformers checkpoint with its tokenizer, and for an MoE the router state beside it.

    ``state_dict`` holds the weights of a model that does not have them itself, because it is sharded.

    ``save_pretrained`` would keep a buffer on the router and ``from_pretrained`` would silently drop it, so
    the bias is a file of its own whose hash stands in config.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model, adapter = language_model.model, language_model.adapter
    if adapter is not None:
        ema = language_model.ema if language_model.ema is not None else torch.zeros_like(adapter.bias)
        path = folder / ROUTER_STATE_FILE
        state = {"bias": adapter.bias.detach().cpu().clone(), "ema": ema.cpu().clone()}
        if adapter.words is not None:
            state[WORD_ROUTES] = adapter.words.table.cpu().clone()
        save_file(state, path)
        setattr(
            model.config,
            CONFIG_KEY,
            {"router_state_sha256": sha256_file(path), "bias_mode": adapter.bias_mode},
        )
    save_weights(folder, language_model, state_dict)


def save_stock_model(folder: Path, language_model: LanguageModel) -> None:
    """Write a transformers checkpoint with its tokenizer and nothing of padd's; the router bias must be zero."""
    model, adapter = language_model.model, language_model.adapter
    assert adapter is None or not (bool(adapter.bias.any()) or adapter.words)
    if hasattr(model.config, CONFIG_KEY):
        delattr(model.config, CONFIG_KEY)
    save_weights(folder, language_model)


def save_weights(
    folder: Path, language_model: LanguageModel, state_dict: dict[str, Tensor] | None = None
) -> None:
    """Write the checkpoint and tokenizer alone; ``state_dict`` as for `save_model`."""
    model = language_model.model
    tensors = dict(model.named_parameters()) if state_dict is None else state_dict
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    dtype = model.config.dtype
    with reserving_space(folder, size, "the student"):
        model.save_pretrained(folder, state_dict=state_dict)
        if (
            model.config.dtype != dtype
        ):  # it is that of the parameters kept in training, not of what was written
            model.config.dtype = dtype
            model.config.save_pretrained(folder)
        language_model.tokenizer.save_pretrained(folder)
