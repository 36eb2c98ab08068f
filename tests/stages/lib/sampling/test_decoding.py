"""Sampling with shared prompts and dropped rows is each family's own generation."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GptOssConfig

from padd_artifacts.errors import PaddError
from padd_stages.lib.models.moe_adapter import MoEAdapter
from padd_stages.lib.sampling.responses import Request, Sampling, sample

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPTS = [(5, 9, 11, 7), (4, 8), (5, 9, 11, 7), (13, 2, 40, 21, 33, 6, 17), (4, 8), (22,)]
NEW = 12


def plain(model: Any, prompt: tuple[int, ...], eos_ids: list[int]) -> tuple[int, ...]:
    """The longest way round: the whole sequence again for every token, without a cache."""
    ids = list(prompt)
    for _ in range(NEW):
        ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        if ids[-1] in eos_ids:
            break
    return tuple(ids[len(prompt) :])


def sampled(model: Any, temperature: float, budget: int, eos_ids: list[int], **keywords: Any) -> list[Any]:
    return sample(
        model,
        [Request(prompt, (number,)) for number, prompt in enumerate(PROMPTS)],
        Sampling(NEW, temperature),
        eos_ids=eos_ids,
        pad_id=0,
        batch_tokens=budget,
        **keywords,
    )


@torch.no_grad()
def test_greedy_responses_are_those_of_the_model_alone(tiny, any_family):
    model = tiny(any_family)
    if hasattr(model.config, "num_experts_per_tok"):
        adapter = MoEAdapter.attach(model)
        adapter.set_bias(torch.randn(adapter.bias.shape, generator=torch.Generator().manual_seed(3)))
    first = plain(model, PROMPTS[0], [])
    eos_ids = [first[3], plain(model, PROMPTS[1], [])[6]]  # so that rows end at different times
    expected = [plain(model, prompt, eos_ids) for prompt in PROMPTS]
    assert len({len(ids) for ids in expected}) > 1
    for budget in (10_000, 50, 1):
        assert [response.token_ids for response in sampled(model, 0.0, budget, eos_ids)] == expected


@torch.no_grad()
def test_a_sliding_window_is_kept(tiny):
    config = GptOssConfig(
        **tiny("gpt_oss").config.to_dict()
        | {
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "num_hidden_layers": 4,
        }
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    eos_ids = [plain(model, PROMPTS[0], [])[2]]
    expected = [plain(model, prompt, eos_ids) for prompt in PROMPTS]
    assert [response.token_ids for response in sampled(model, 0.0, 10_000, eos_ids)] == expected


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_processes_that_share_weights_run_as_many_forwards(tiny, temperature):
    model = tiny("qwen3_moe")
    alone = sampled(model, temperature, 50, [3])
    forwards, told = [], []
    model.register_forward_pre_hook(lambda *_: forwards.append(len(told)))

    def any_working(working: bool) -> bool:
        told.append(working)
        return working or len(told) < 60  # others go on up to their 60th forward

    assert sampled(model, temperature, 50, [3], any_working=any_working) == alone
    assert told == sorted(told, reverse=True)
    assert True in told
    assert forwards == list(range(1, 60))


@torch.no_grad()
def test_responses_are_those_of_the_library_s_own_generate(tiny, any_family):
    model = tiny(any_family)
    ids = torch.tensor([PROMPTS[0], PROMPTS[1] + PROMPTS[1]])
    model.generation_config.eos_token_id = None
    expected = model.generate(input_ids=ids, max_new_tokens=NEW, do_sample=False)[:, ids.shape[1] :]
    requests = [Request(tuple(row), (number,)) for number, row in enumerate(ids.tolist())]
    found = sample(model, requests, Sampling(NEW, 0.0), eos_ids=[], pad_id=0, batch_tokens=10_000)
    assert [list(response.token_ids) for response in found] == expected.tolist()


def test_a_model_without_a_cache_is_refused(tiny):
    model = tiny("qwen2")

    class Bare(torch.nn.Module):
        """Reads, and keeps nothing."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, input_ids, attention_mask=None, use_cache=True):
            outputs = self.inner(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
            return {"logits": outputs.logits}

    with pytest.raises(PaddError, match="Bare returns no key-value cache"):
        sampled(Bare(), 0.0, 10_000, [])
