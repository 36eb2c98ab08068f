"""Loading of models and tokenizers, of a student together with the state of its router."""

import hashlib
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

from padd_artifacts.artifact import open_artifact
from padd_artifacts.errors import PaddError
from padd_artifacts.manifest import MANIFEST_NAME, Parent, sha256_file
from padd_stages.lib.compat import torch as compat_torch
from padd_stages.lib.compat import transformers as compat_transformers
from padd_stages.lib.compat.probes import require
from padd_stages.lib.data.problems import first_line
from padd_stages.lib.models.context import Context
from padd_stages.lib.models.kernels import Kernels
from padd_stages.lib.models.moe_adapter import MoEAdapter
from padd_stages.lib.models.names import ModelName, parse_model_name
from padd_stages.lib.models.word_routes import WordRoutes

ROUTER_STATE_FILE = "router_state.safetensors"
WORD_ROUTES = "word_routes"  # in that file, of a student that routes by words
CONFIG_KEY = "padd"
MODEL_FILES = ("*.json", "*.safetensors", "tokenizer*", "*.model", "*.txt", "*.jinja")
GENERIC_TOKENIZERS = ("TokenizersBackend", "PreTrainedTokenizerFast")
CAUSAL_SUFFIXES = ("ForCausalLM", "LMHeadModel")

DtypeName = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass
class LanguageModel:
    """A loaded causal LM.

    Attributes:
        adapter, ema: for MoE models only; ``ema`` is (L, N).
        dtypes: of each tensor of its state as it was loaded, and as it is saved; training keeps wider ones.
    """

    model: Any
    tokenizer: Any
    parent: Parent
    adapter: MoEAdapter | None = None
    ema: Tensor | None = None
    dtypes: dict[str, torch.dtype] = field(default_factory=dict)

    @property
    def eos_ids(self) -> list[int]:
        """Every id that ends a response: the tokenizer's and the generation config's."""
        ids = {self.tokenizer.eos_token_id}
        configured = self.model.generation_config.eos_token_id
        ids.update(configured if isinstance(configured, list) else [configured])
        return sorted(token for token in ids if token is not None)

    @property
    def pad_id(self) -> int:
        """Padding id; an end id where the tokenizer has none (padding is masked everywhere)."""
        pad = self.tokenizer.pad_token_id
        return pad if pad is not None else self.eos_ids[0]

    @property
    def max_positions(self) -> int:
        """The position limit of the model in tokens; ``sys.maxsize`` where its configuration names none."""
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return sys.maxsize if limit is None else int(limit)


def check_libraries() -> None:
    """Refuse to run models with a transformers or torch whose interfaces that padd uses have changed.

    Raises:
        PaddError: which name has changed, and which versions are known to work.
    """
    require(compat_transformers.LIBRARY)
    require(compat_torch.LIBRARY)


def load_config(name: str) -> tuple[ModelName, PreTrainedConfig]:
    """Resolve a model name and read its configuration, through transformers.

    Raises:
        PaddError: no such model, no network, or not a causal language model.
    """
    model_name = parse_model_name(name)
    try:
        config = AutoConfig.from_pretrained(model_name.source)
    except Exception as error:
        raise _not_found(model_name, error) from error
    architectures = config.architectures or []
    if not any(architecture.endswith(CAUSAL_SUFFIXES) for architecture in architectures):
        raise PaddError(
            f"{name} is {' / '.join(architectures) or type(config).__name__}, which is not a causal language model, "
            "so it can be neither teacher nor student; name a ...ForCausalLM checkpoint."
        )
    return model_name, config


def _not_found(name: ModelName, error: Exception) -> PaddError:
    if name.folder is not None:
        return PaddError(
            f"{name.folder / 'config.json'} cannot be read ({first_line(error)}), so no model can be loaded; "
            "check the folder."
        )
    from huggingface_hub import constants

    return PaddError(
        f"'{name.given}' was looked for as {name.hub_id} in the cache {constants.HF_HUB_CACHE} and on "
        f"{constants.ENDPOINT}, and is not there or cannot be reached ({first_line(error)}), so no model can be "
        "loaded; connect to the network, log in if the model is gated, or give a local folder."
    )


def model_folder(name: str) -> Path:
    """Return the local folder of a model's files; a hub model is first downloaded (or found in the cache).

    Raises:
        PaddError: as :func:`load_config`, and when the files cannot be fetched.
    """
    model_name, _ = load_config(name)
    if model_name.folder is not None:
        return model_name.folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(model_name.hub_id), allow_patterns=list(MODEL_FILES)))
    except Exception as error:
        raise _not_found(model_name, error) from error


def model_parent(name: str) -> Parent:
    """Return a model as a parent artifact: its manifest's digest, its hub commit, or the hash of its files."""
    model_name, _ = load_config(name)
    if model_name.folder is None:
        commit = _cached_commit(str(model_name.hub_id))
        return Parent(kind="model", digest=f"hub:{model_name.hub_id}@{commit}", path=name)
    if (model_name.folder / MANIFEST_NAME).is_file():
        return open_artifact(model_name.folder).as_parent()
    digest = hashlib.sha256()
    for pattern in sorted(MODEL_FILES):
        for path in sorted(model_name.folder.glob(pattern)):
            digest.update(f"{path.name}:{sha256_file(path)}\n".encode())
    return Parent(kind="model", digest=digest.hexdigest(), path=name)


def _cached_commit(hub_id: str) -> str:
    """Return the commit of a hub model whose configuration is cached, in ``.../snapshots/COMMIT/``."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(hub_id, "config.json")
    if not isinstance(path, str):
        raise PaddError(
            f"the commit of {hub_id} is not known, since its config.json is not in the hub's cache, so a result could "
            "not say which weights it comes from; download the model into a folder and name that."
        )
    return Path(path).parent.name


def load_tokenizer(source: str) -> Any:
    """Load the tokenizer of a model as its files declare it.

    For some model types (qwen2 among them) AutoTokenizer silently replaces a generic tokenizer by the family's own,
    which splits words differently. A tokenizer that names the generic class is complete in its ``tokenizer.json``, so
    that file is loaded. Where a folder has no tokenizer, AutoTokenizer makes one without words for some families.

    Raises:
        PaddError: there is none, or it cannot be read.
    """
    try:
        declared = compat_transformers.declared_tokenizer(source)
        kind = PreTrainedTokenizerFast if declared in GENERIC_TOKENIZERS else AutoTokenizer
        tokenizer: Any = kind.from_pretrained(source)
        if len(tokenizer) <= len(tokenizer.all_special_ids):
            raise ValueError("it has no words")
    except Exception as error:
        raise PaddError(
            f"the tokenizer of {source} could not be loaded ({first_line(error)}), so no text becomes its tokens; "
            "put the model's tokenizer files beside its weights."
        ) from error
    return tokenizer


def load_model(
    name: str,
    *,
    dtype: DtypeName = "auto",
    device: str = "cpu",
    moe: bool | None = None,
    bias_mode: str | None = None,
    context: Context | None = None,
    kernels: Kernels | None = None,
) -> LanguageModel:
    """Load a causal LM with its tokenizer, and its router state if it is a student that padd wrote.

    Args:
        name: folder, hub id or short name.
        dtype: of the weights.
        device: a torch device; meta makes the model without reading its weights.
        moe: True refuses a dense model, False attaches no adapter, None attaches one where there are experts.
        bias_mode: how the router bias acts; None takes the saved student's own, else ``logits``.
        context: positions that it reads, where they are not its configuration's.
        kernels: what computes it, where that is not transformers' choice.

    Raises:
        UsageError: there are no such kernels.
        PaddError: not found, no causal LM, no MoE layers where some are needed, a lost router state.
    """
    check_libraries()
    parent = model_parent(name)
    model_name, config = load_config(name)
    if context is not None:
        context.apply(config, name)
    try:
        tokenizer = load_tokenizer(model_name.source)
        model: Any = AutoModelForCausalLM.from_pretrained(
            model_name.source, dtype=dtype, config=config, device_map="meta" if device == "meta" else None
        )
    except PaddError:
        raise
    except Exception as error:
        raise PaddError(
            f"{name} could not be loaded by transformers ({first_line(error)}), so the run stops; "
            "check the checkpoint's files."
        ) from error
    model.to(device).eval()
    if kernels is not None:
        kernels.apply(model, has_experts=_has_experts(model))
    saved = getattr(config, CONFIG_KEY, None)
    state = _read_router_state(model_name, saved) if saved else None
    adapter = _attach_adapter(model, moe, bias_mode or (saved or {}).get("bias_mode", "logits"))
    ema = None
    if adapter is not None:
        ema = torch.zeros(adapter.num_layers, adapter.num_experts)
        if state is not None:
            adapter.set_bias(state["bias"])
            ema = state["ema"]
            if WORD_ROUTES in state:
                adapter.words = WordRoutes(model, state[WORD_ROUTES])
    dtypes = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    return LanguageModel(model, tokenizer, parent, adapter, ema, dtypes)


def is_moe(name: str) -> bool:
    """Return whether a model has experts, from its configuration alone.

    Raises:
        PaddError: as :func:`load_config`.
    """
    return _has_experts(load_meta_model(name))


def load_meta_model(name: str, dtype: DtypeName = "auto") -> Any:
    """Build the model on the meta device from its configuration: shapes and types without weights.

    Raises:
        PaddError: as :func:`load_config`.
    """
    check_libraries()
    _, config = load_config(name)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=config.dtype if dtype == "auto" else dtype)


def _has_experts(model: Any) -> bool:
    return any(hasattr(module, "experts") for module in model.modules())


def _attach_adapter(model: Any, moe: bool | None, bias_mode: str) -> MoEAdapter | None:
    if moe is False or (moe is None and not _has_experts(model)):
        return None
    return MoEAdapter.attach(model, bias_mode=bias_mode)  # type: ignore[arg-type]


def _read_router_state(name: ModelName, saved: dict[str, Any]) -> dict[str, Tensor]:
    """Read the router bias that config.json names; without it the student would be another model."""
    folder = name.folder if name.folder is not None else model_folder(name.given)
    path = folder / ROUTER_STATE_FILE
    if not path.is_file():
        raise PaddError(
            f"{path} is missing: this student's router bias is in it, and without it another model would run; "
            "restore the file or make the student again."
        )
    if sha256_file(path) != saved["router_state_sha256"]:
        raise PaddError(
            f"{path} is not the file that config.json names (its SHA-256 differs), so the router bias cannot be "
            "trusted; restore the file or make the student again."
        )
    return load_file(path)


def parameter_counts(language_model: LanguageModel) -> dict[str, int]:
    """Count all parameters, and those active for one token (routed experts count K of N)."""
    total = sum(parameter.numel() for parameter in language_model.model.parameters())
    adapter = language_model.adapter
    if adapter is None:
        return {"total": total, "active": total}
    experts = sum(parameter.numel() for parameter in adapter.expert_parameters())
    return {"total": total, "active": total - experts + experts * adapter.top_k // adapter.num_experts}


def quiet_transformers() -> None:
    """Switch off transformers' own progress bars and warnings."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
