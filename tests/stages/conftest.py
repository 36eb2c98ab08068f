"""Tiny random models of each family, from the real config classes, with no two sizes equal."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    DeepseekV2Config,
    DeepseekV3Config,
    GemmaConfig,
    Glm4MoeConfig,
    GPT2Config,
    GptOssConfig,
    GraniteMoeConfig,
    LlamaConfig,
    MiniMaxM2Config,
    MistralConfig,
    MixtralConfig,
    OlmoeConfig,
    OPTConfig,
    Phi3Config,
    PhimoeConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)

from padd_stages.lib.grading.grader import Grader

VOCABULARY = 53
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "num_experts_per_tok": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
DENSE = {name: value for name, value in COMMON.items() if name != "num_experts_per_tok"}
SHORT = {name: COMMON[name] for name in ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")}
# Wide: dense layers and shared experts; narrow: a routed expert (grouped_mm wants rows of a multiple of 16 bytes).
WIDE, NARROW, EXPERTS = 34, 16, 6
DEEPSEEK: dict[str, Any] = {
    "intermediate_size": WIDE,
    "moe_intermediate_size": NARROW,
    "n_routed_experts": EXPERTS,
    "n_shared_experts": 1,
    "num_key_value_heads": 4,
    "num_hidden_layers": 4,
    "first_k_dense_replace": 1,  # so that three MoE layers stay here too
    "q_lora_rank": 12,
    "kv_lora_rank": 10,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 8,
    "v_head_dim": 5,
    "head_dim": 8,
    "routed_scaling_factor": 1.7,
}
QWEN: dict[str, Any] = {"intermediate_size": WIDE, "moe_intermediate_size": NARROW, "num_experts": EXPERTS}
LOCAL: dict[str, Any] = {"intermediate_size": NARROW, "num_local_experts": EXPERTS}

CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "qwen2_moe": lambda: Qwen2MoeConfig(**COMMON | QWEN | {"shared_expert_intermediate_size": 14}),
    "qwen3_moe": lambda: Qwen3MoeConfig(**COMMON | QWEN | {"head_dim": 8, "norm_topk_prob": True}),
    "mixtral": lambda: MixtralConfig(**COMMON | LOCAL),
    "olmoe": lambda: OlmoeConfig(**COMMON | {"intermediate_size": NARROW, "num_experts": EXPERTS}),
    "deepseek_v2": lambda: DeepseekV2Config(**COMMON | DEEPSEEK),
    "deepseek_v2_groups": lambda: DeepseekV2Config(
        **COMMON | DEEPSEEK | {"topk_method": "group_limited_greedy", "n_group": 2, "topk_group": 1}
    ),
    "deepseek_v3": lambda: DeepseekV3Config(**COMMON | DEEPSEEK | {"n_group": 3, "topk_group": 2}),
    "gpt_oss": lambda: GptOssConfig(
        **COMMON | LOCAL | {"head_dim": 8, "layer_types": ["full_attention"] * 3}
    ),
    "glm4_moe": lambda: Glm4MoeConfig(**COMMON | DEEPSEEK | {"num_key_value_heads": 2, "head_dim": 8}),
    "granitemoe": lambda: GraniteMoeConfig(**COMMON | LOCAL | {"logits_scaling": 3.0}),
    "phimoe": lambda: PhimoeConfig(**COMMON | LOCAL),
    "minimax_m2": lambda: MiniMaxM2Config(**COMMON | LOCAL | {"head_dim": 8}),
    "qwen2": lambda: Qwen2Config(**DENSE),
}
TEACHERS: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: LlamaConfig(**DENSE | {"intermediate_size": WIDE}),
    "qwen3": lambda: Qwen3Config(**DENSE | {"intermediate_size": WIDE, "head_dim": 8}),
    "mistral": lambda: MistralConfig(**DENSE | {"intermediate_size": WIDE, "sliding_window": 5}),
    "gemma": lambda: GemmaConfig(**DENSE | {"intermediate_size": WIDE, "head_dim": 8}),
    "phi3": lambda: Phi3Config(**DENSE | {"intermediate_size": WIDE}),
    "gpt2": lambda: GPT2Config(**SHORT | {"n_embd": 24, "n_head": 4, "n_layer": 3, "n_positions": 30}),
    "opt": lambda: OPTConfig(
        **SHORT | {"hidden_size": 24, "num_attention_heads": 4, "num_hidden_layers": 3, "ffn_dim": WIDE},
        word_embed_proj_dim=24,
        max_position_embeddings=30,
    ),
}
REFUSED = ("phimoe", "minimax_m2", "qwen2")
FAMILIES = [name for name in CONFIGS if name not in REFUSED]
DENSE_FAMILIES = ["qwen2", *TEACHERS]
SOFTMAX_FAMILIES = [name for name in FAMILIES if name not in ("deepseek_v3", "glm4_moe")]


def build_tiny(family: str, **changes: Any) -> Any:
    """A model of `family`, fp32, eval mode, every parameter and selection bias random (same call, same values)."""
    config = (CONFIGS | TEACHERS)[family]()
    config.update(changes)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Norms stay near one; the rest is loud enough for routers to have opinions.
            centre = 1.0 if "norm" in name else 0.0
            parameter.copy_(centre + 0.3 * torch.randn(parameter.shape, generator=generator))
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.copy_(0.2 * torch.randn(buffer.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    """One grader for all tests of a module."""
    with Grader(workers=2, time_limit=20.0) as shared:
        yield shared


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads on models this small only wait for each other: measured 100 times slower on two busy cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def tiny() -> Callable[[str], Any]:
    return build_tiny


@pytest.fixture(scope="session")
def make_tiny() -> Callable[..., Any]:
    """`tiny` for what is made once."""
    return build_tiny


@pytest.fixture(scope="session")
def families() -> list[str]:
    return FAMILIES


@pytest.fixture
def ids() -> torch.Tensor:
    """(5, 7) token ids, no padding."""
    return torch.randint(2, VOCABULARY, (5, 7), generator=torch.Generator().manual_seed(5))


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[*FAMILIES, *DENSE_FAMILIES])
def any_family(request: pytest.FixtureRequest) -> str:
    """A student's family or a teacher's."""
    return request.param


@pytest.fixture(params=SOFTMAX_FAMILIES)
def softmax_family(request: pytest.FixtureRequest) -> str:
    return request.param
