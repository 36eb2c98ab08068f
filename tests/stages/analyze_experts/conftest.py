"""A tiny random Qwen3-MoE whose first layer is dense, with a tokenizer of whole words; no two sizes equal."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3MoeConfig, Qwen3MoeForCausalLM

from padd_stages.lib.models.frozen import FrozenModel
from padd_stages.lib.models.policy import Policy
from padd_stages.lib.runtime.processes import Processes

VOCABULARY = "<pad> <eos> <unk> ask reply find the area of a gcd sum 1 2 3 4 5 is so"
WORDS = tuple(VOCABULARY.split())
TURNS = "{% for m in messages %}ask {{ m['content'] }} {% endfor %}"
CHAT_TEMPLATE = TURNS + "{% if add_generation_prompt %}reply {% endif %}"


def make_tokenizer():
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make_model(seed):
    torch.manual_seed(seed)
    config = Qwen3MoeConfig(
        vocab_size=len(WORDS),
        hidden_size=24,
        intermediate_size=34,
        moe_intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_experts=5,
        num_experts_per_tok=2,
        mlp_only_layers=[0],
        norm_topk_prob=True,
        initializer_range=0.5,
        pad_token_id=0,
        eos_token_id=1,
    )
    return Qwen3MoeForCausalLM(config).eval()


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer()


@pytest.fixture
def model():
    return make_model(0)


@pytest.fixture
def alone():
    """Make a loaded model one that runs in this process alone."""
    return lambda loaded: FrozenModel(loaded, Policy(loaded.model), Processes(torch.device("cpu")))
