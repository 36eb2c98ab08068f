"""The two toy architectures, of real transformers classes, and their shared text layout."""

from typing import Any

from transformers import (
    GenerationConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

# Room for twice the longest problem with its solution (61 tokens with the chat template's).
MAX_POSITIONS = 128

# No two sizes of a model are equal by accident, so that a transposed matrix cannot pass unnoticed, and the
# student shares none with the teacher. 512 neurons fall into 8 clusters of 64.
TEACHER_SIZES: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
STUDENT_SIZES: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 176,  # of dense layers, of which there are none: two experts' width, for the record
    "moe_intermediate_size": 88,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 28,
    "num_experts": 8,
    "num_experts_per_tok": 2,
}


def _text_layout(tokenizer: Any) -> dict[str, Any]:
    """Return the configuration fields that follow from the tokenizer."""
    return {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": MAX_POSITIONS,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": False,
    }


def _generation(tokenizer: Any) -> GenerationConfig:
    """Return a generation configuration: stop at the end token; plain sampling unless the caller says otherwise."""
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def new_teacher(tokenizer: Any) -> Qwen2ForCausalLM:
    """Build an untrained dense teacher of about a million parameters; the caller seeds torch."""
    model = Qwen2ForCausalLM(Qwen2Config(**TEACHER_SIZES, **_text_layout(tokenizer)))
    model.generation_config = _generation(tokenizer)
    return model


def new_student(tokenizer: Any, aux_loss: float) -> Qwen3MoeForCausalLM:
    """Build an untrained mixture of experts of about 0.75 million parameters; the caller seeds torch.

    Args:
        aux_loss: weight of the load-balancing loss in pre-training; `recipe.build` sets it to 0 before it saves.
    """
    config = Qwen3MoeConfig(
        **STUDENT_SIZES, **_text_layout(tokenizer), norm_topk_prob=True, router_aux_loss_coef=aux_loss
    )
    model = Qwen3MoeForCausalLM(config)
    model.generation_config = _generation(tokenizer)
    return model
