"""A teacher that reads more positions than its configuration says, and what is told of those beyond."""

import pytest
import torch
from transformers import AutoConfig, GPT2Config

from padd_artifacts.errors import PaddError
from padd_stages.lib.data.sequences import TokenSequence
from padd_stages.lib.models.context import Context
from padd_stages.lib.models.loading import load_model
from padd_stages.lib.models.teacher import Teacher


def test_positions_and_base_are_those_asked_for(pico):
    plain = load_model(str(pico.teacher))
    longer = load_model(str(pico.teacher), context=Context(max_positions=999, rope_theta=40000.0))
    assert longer.max_positions == 999
    ids = torch.arange(8)[None]
    wanted = AutoConfig.from_pretrained(pico.teacher)
    wanted.rope_parameters["rope_theta"] = 40000.0
    plain.model.model.rotary_emb = type(plain.model.model.rotary_emb)(wanted)
    torch.testing.assert_close(longer.model(ids).logits, plain.model(ids).logits)


def test_learnt_positions_are_not_extended():
    with pytest.raises(PaddError, match=r"gpt2\) has no rotary embeddings of one base"):
        Context(max_positions=2048).apply(GPT2Config(), "gpt2")
    Context().apply(GPT2Config(), "gpt2")


def test_tokens_beyond_the_limit_are_told_and_a_comparison_of_nothing_is_refused(pico):
    student = load_model(str(pico.student))
    sequences, prompts = [TokenSequence((1,), (5, 6, 7, 8))], [(1, 2)]

    def told(limit: int | None) -> str | None:
        model = load_model(str(pico.teacher), context=Context(max_positions=limit))
        teacher = Teacher(model, student)
        return teacher.check_compared(*teacher.shares(sequences, prompts))

    assert told(None) is None
    warning = told(5)
    assert warning is not None
    assert warning.startswith("25.0% of the response tokens lie beyond the teacher's 5 positions")
    with pytest.raises(PaddError, match=r"all lie beyond its 2 positions; --teacher-max-positions"):
        told(2)
