"""Prompts through chat templates of every temper, with tiny tokenizers of the real class."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from padd_stages.lib.data.prompts import DEFAULT_SYSTEM, PLAIN_TEMPLATE, prompt_ids, prompt_text

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKING = CHATML + "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
REFUSES = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    + CHATML
)
IGNORES = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")


def _tokenizer(template: str | None) -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {word: number for number, word in enumerate(["<s>", "<|im_start|>", "<|im_end|>", *alphabet])}
    backend = Tokenizer(models.BPE(vocab=words, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", additional_special_tokens=["<|im_start|>", "<|im_end|>"]
    )
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("template", [CHATML, THINKING])
@pytest.mark.parametrize("thinking", [False, True])
def test_ids_are_those_of_the_chat_template(template: str, thinking: bool) -> None:
    tokenizer = _tokenizer(template)
    turns = [{"role": "system", "content": DEFAULT_SYSTEM}, {"role": "user", "content": "1+1?"}]
    expected = tokenizer.apply_chat_template(
        turns, tokenize=True, add_generation_prompt=True, return_dict=False, enable_thinking=thinking
    )
    ids = prompt_ids(tokenizer, "1+1?", thinking=thinking)
    assert ids == expected
    assert all(type(token) is int for token in ids)
    assert ids.count(tokenizer.convert_tokens_to_ids("<|im_start|>")) == 3


def test_thinking_reaches_templates_that_know_it() -> None:
    tokenizer = _tokenizer(THINKING)
    assert prompt_text(tokenizer, "1+1?").endswith("<think></think>")
    assert not prompt_text(tokenizer, "1+1?", thinking=True).endswith("<think></think>")


@pytest.mark.parametrize("template", [REFUSES, IGNORES])
def test_without_a_system_role_the_instruction_joins_the_user_turn(template: str) -> None:
    text = prompt_text(_tokenizer(template), "1+1?")
    assert text == f"<|im_start|>user\n1+1?\n\n{DEFAULT_SYSTEM}<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("template", [CHATML, REFUSES])
def test_no_instruction(template: str) -> None:
    text = prompt_text(_tokenizer(template), "1+1?", system="")
    assert text == "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n"


def test_plain_template_for_tokenizers_without_chat_template() -> None:
    tokenizer = _tokenizer(None)
    text = prompt_text(tokenizer, r"$\frac{1}{2}$?")
    assert text == PLAIN_TEMPLATE.format(system=DEFAULT_SYSTEM, problem=r"$\frac{1}{2}$?")
    assert prompt_text(tokenizer, "1+1?", system="") == "Problem: 1+1?\n\nSolution:"
    assert prompt_ids(tokenizer, "1+1?") == tokenizer(prompt_text(tokenizer, "1+1?"))["input_ids"]


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (
            "qwen-math",
            "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
            "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n",
        ),
        ("none", "1+1?"),
    ],
)
def test_fixed_templates_leave_the_models_own_out(template, text) -> None:
    tokenizer = _tokenizer(CHATML)
    ids = prompt_ids(tokenizer, "1+1?", system="unused", template=template)
    assert ids == tokenizer(text)["input_ids"]


def test_the_r1_template_opens_the_thinking_section() -> None:
    tokenizer = _tokenizer(None)
    ids = prompt_ids(tokenizer, "1+1?", template="r1")
    for text, part in (
        ("A conversation between User and Assistant.", ids),
        ("answer here </answer>.\nUser: 1+1?\nAssistant: <think>", ids[::-1]),
    ):
        expected = tokenizer(text)["input_ids"]
        assert part[: len(expected)] == (expected if part is ids else expected[::-1])
