"""Reading FFN rows of every dense family out of sharded checkpoints, and watching the running model."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from padd_artifacts.errors import PaddError
from padd_stages.lib.models.ffn import FFNActivations, FFNReader, cluster_means

HIDDEN, WIDTH, LAYERS, WORDS = 24, 40, 3, 53
SIZES = {
    "hidden_size": HIDDEN,
    "intermediate_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": WORDS,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OPT_SIZES = {
    "hidden_size": HIDDEN,
    "word_embed_proj_dim": HIDDEN,
    "ffn_dim": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "vocab_size": WORDS,
    "max_position_embeddings": 32,
}
GPT2_SIZES = {
    "n_embd": HIDDEN,
    "n_inner": WIDTH,
    "n_layer": LAYERS,
    "n_head": 4,
    "vocab_size": WORDS,
    "n_positions": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=6)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES)),
    "gemma": lambda: GemmaForCausalLM(GemmaConfig(**SIZES, head_dim=6)),
    "phi3": lambda: Phi3ForCausalLM(Phi3Config(**SIZES)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**GPT2_SIZES)),
    "opt": lambda: OPTForCausalLM(OPTConfig(**OPT_SIZES)),
}


def layer_of(model, family, index):
    if family == "gpt2":
        return model.transformer.h[index].mlp
    return model.model.decoder.layers[index] if family == "opt" else model.model.layers[index].mlp


def expected_rows(model, family, index):
    """(gate, up) as (d_ff, d_T), out of the built model; up is None where there is one first matrix."""
    mlp = layer_of(model, family, index)
    if family == "gpt2":
        return mlp.c_fc.weight.T, None
    if family == "opt":
        return mlp.fc1.weight, None
    if family == "phi3":
        return mlp.gate_up_proj.weight[:WIDTH], mlp.gate_up_proj.weight[WIDTH:]
    return mlp.gate_proj.weight, mlp.up_proj.weight


def expected_activation(model, family, index, hidden):
    mlp = layer_of(model, family, index)
    if family == "gpt2":
        return mlp.act(mlp.c_fc(hidden))
    if family == "opt":
        return mlp.activation_fn(mlp.fc1(hidden))
    gate, up = expected_rows(model, family, index)
    act = mlp.activation_fn if family == "phi3" else mlp.act_fn
    return act(hidden @ gate.T) * (hidden @ up.T)


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request, tmp_path_factory):
    torch.manual_seed(0)
    model = FAMILIES[request.param]().eval()
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder, max_shard_size="8KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    return request.param, model, folder


def test_rows_are_the_models_own(checkpoint):
    family, model, folder = checkpoint
    reader = FFNReader(folder)
    assert (reader.num_layers, reader.width, reader.hidden) == (LAYERS, WIDTH, HIDDEN)
    for index in range(LAYERS):
        gate, up = expected_rows(model, family, index)
        rows = reader.rows(index)
        assert rows.dtype == np.float32
        assert rows.flags.c_contiguous
        assert np.array_equal(rows, gate.detach().numpy())
        if up is None:
            assert not reader.gated
            with pytest.raises(PaddError, match="one first matrix"):
                reader.rows(index, "up")
        else:
            assert np.array_equal(reader.rows(index, "up"), up.detach().numpy())
            both = reader.rows(index, "gate+up")
            assert np.array_equal(both, torch.cat([gate, up], dim=1).detach().numpy())


def test_activations_and_inputs_of_the_running_model(checkpoint):
    family, model, _ = checkpoint
    ids = torch.randint(3, WORDS, (2, 5), generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), FFNActivations.attach(model, [0, 2]) as seen:
        model(ids)
    for index in (0, 2):
        assert seen.inputs(index).shape == (10, HIDDEN)
        with torch.no_grad():
            wanted = expected_activation(model, family, index, seen.inputs(index)).abs()
        torch.testing.assert_close(seen.activations(index), wanted)
    with pytest.raises(KeyError):
        seen.activations(1)
    hooks = sum(len(module._forward_pre_hooks) for module in model.modules())
    assert hooks == 0


def test_bfloat16_rows_are_widened_exactly(tmp_path):
    torch.manual_seed(1)
    model = Qwen2ForCausalLM(Qwen2Config(**SIZES)).to(torch.bfloat16)
    model.save_pretrained(tmp_path, max_shard_size="8KB")
    rows = FFNReader(tmp_path).rows(1)
    assert np.array_equal(rows, model.model.layers[1].mlp.gate_proj.weight.detach().float().numpy())


def test_names_without_the_models_prefix(tmp_path):
    """The hub's gpt2 says h.0.mlp.c_fc where transformers says transformer.h.0.mlp.c_fc."""
    model = GPT2LMHeadModel(GPT2Config(**GPT2_SIZES))
    save_file(
        {k: v.contiguous() for k, v in model.transformer.state_dict().items()}, tmp_path / "model.safetensors"
    )
    assert np.array_equal(
        FFNReader(tmp_path).rows(2), model.transformer.h[2].mlp.c_fc.weight.T.detach().numpy()
    )


def test_a_mixture_of_experts_is_refused_by_the_modules_found(tmp_path):
    config = Qwen3MoeConfig(
        **SIZES,
        head_dim=6,
        moe_intermediate_size=8,
        num_experts=4,
        num_experts_per_tok=2,
        mlp_only_layers=[0],
    )
    model = Qwen3MoeForCausalLM(config)
    model.save_pretrained(tmp_path)
    with pytest.raises(PaddError, match=r"layers\.\*\.mlp\.experts"):
        FFNReader(tmp_path)
    with pytest.raises(PaddError, match="0 stacks"), FFNActivations.attach(model, [0]):
        pass


def test_a_folder_without_safetensors_is_refused(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(PaddError, match="no safetensors"):
        FFNReader(tmp_path)


def test_quantised_weights_are_refused(tmp_path):
    tensors = {
        f"model.layers.0.mlp.{name}.weight": torch.ones(shape, dtype=torch.int8)
        for name, shape in (("gate_proj", (6, 4)), ("up_proj", (6, 4)), ("down_proj", (4, 6)))
    }
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(PaddError, match="int8"):
        FFNReader(tmp_path).rows(0)


def test_reduce_is_applied_in_the_hook_and_cluster_means_are_means():
    torch.manual_seed(2)
    model = LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
    ids = torch.randint(3, WORDS, (1, 6))
    assignment = torch.arange(WIDTH) % 7
    with torch.no_grad():
        with FFNActivations.attach(model, [1]) as whole:
            model(ids)
        with FFNActivations.attach(model, [1], lambda t, a: cluster_means(a, assignment, 7) * t) as reduced:
            model(ids)
    values = whole.activations(1)
    wanted = torch.stack([values[:, assignment == j].mean(dim=1) for j in range(7)], dim=1)
    torch.testing.assert_close(reduced.activations(1), wanted)
