"""Routes by words: in every family, whatever the context, the padding, the cache or the recomputation."""

import pytest
import torch

from padd_stages.lib.models.loading import load_model
from padd_stages.lib.models.moe_adapter import NO_ROUTE, MoEAdapter
from padd_stages.lib.models.saving import save_model, save_stock_model
from padd_stages.lib.models.word_routes import WordRoutes
from padd_stages.lib.sampling.responses import Request, Sampling, sample
from padd_stages.lib.sampling.routes import route_dtype

WORDS = 53


def by_words(model) -> MoEAdapter:
    adapter = MoEAdapter.attach(model)
    generator = torch.Generator().manual_seed(5)
    shape = (model.get_input_embeddings().weight.shape[0], adapter.num_layers, adapter.num_experts)
    table = torch.rand(shape, generator=generator).topk(adapter.top_k).indices
    adapter.words = WordRoutes(model, table.to(route_dtype(adapter.num_experts)))
    return adapter


def expected(adapter: MoEAdapter, words: torch.Tensor) -> torch.Tensor:
    assert adapter.words is not None
    return adapter.words.table[words.flatten()].transpose(0, 1).long()  # (L, tokens, K)


def test_a_forward_routes_by_words_and_weighs_by_logits(tiny, family, one_thread):
    model = tiny(family)
    adapter = by_words(model)
    words = torch.randint(8, WORDS, (3, 7), generator=torch.Generator().manual_seed(1))
    with adapter.trace() as trace, torch.no_grad():
        logits = model(input_ids=words).logits
    assert torch.equal(trace.indices, expected(adapter, words))
    routes, adapter.words = expected(adapter, words), None
    with adapter.fixed_routes(routes), torch.no_grad():
        assert torch.equal(model(input_ids=words).logits, logits), "as these routes replayed"
    with torch.no_grad():
        assert not torch.allclose(model(input_ids=words).logits, logits)


def test_sampling_routes_by_words(tiny, family, one_thread):
    model = tiny(family)
    adapter = by_words(model)
    requests = [Request(tuple(range(8, 10 + i)), ("w", i)) for i in range(4)]
    responses = sample(
        model, requests, Sampling(6, 1.5), eos_ids=[7], pad_id=0, batch_tokens=10**6, routed_by=adapter
    )
    for request, response in zip(requests, responses, strict=True):
        words = torch.tensor(request.prompt_ids + response.token_ids)
        assert response.routes is not None
        assert torch.equal(response.routes[:, :-1].long(), expected(adapter, words[:-1]))


def test_recomputed_layers_route_by_the_words_of_their_forward(tiny, family, one_thread):
    model = tiny(family).train()
    by_words(model)
    words = torch.randint(8, WORDS, (2, 6), generator=torch.Generator().manual_seed(2))
    gradients = []
    for checkpointed in (False, True):
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.zero_grad()
        model(input_ids=words).logits.square().mean().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed, atol=1e-6, rtol=1e-4)


def test_a_word_without_routes_takes_its_own_choice(tiny):
    model = tiny("qwen3_moe")
    adapter = by_words(model)
    assert adapter.words is not None
    words = torch.tensor([[9, 10, 11, 12]])
    adapter.words.table[11] = NO_ROUTE
    with adapter.trace() as trace, torch.no_grad():
        model(input_ids=words)
    own = torch.stack([adapter.choose(m, trace.logits[m]) for m in range(adapter.num_layers)])
    assert torch.equal(trace.indices[:, 2], own[:, 2])
    assert torch.equal(trace.indices[:, :2], expected(adapter, words)[:, :2])


def test_they_are_saved_with_the_student(pico, tmp_path):
    student = load_model(str(pico.student))
    student.adapter.detach()
    student.adapter = by_words(student.model)
    save_model(tmp_path / "student", student)
    again = load_model(str(tmp_path / "student"))
    assert torch.equal(again.adapter.words.table, student.adapter.words.table)
    words = torch.randint(8, 40, (2, 6))
    with torch.no_grad():
        assert torch.equal(student.model(words).logits, again.model(words).logits)
    with pytest.raises(AssertionError):
        save_stock_model(tmp_path / "stock", student)
