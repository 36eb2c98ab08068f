"""Routes of the sampler: of every family those of a whole forward, and replayed exactly, gradients too."""

from typing import Any

import pytest
import torch
from torch import Tensor

from padd_stages.lib.data.sequences import TokenSequence, collate
from padd_stages.lib.models.moe_adapter import NO_ROUTE, MoEAdapter
from padd_stages.lib.models.router_rules import router_logits
from padd_stages.lib.sampling.responses import Request, Response, Sampling, sample
from padd_stages.lib.sampling.routes import batch_routes, route_dtype

EOS = 7


def attached(model: Any) -> MoEAdapter:
    """An adapter with a bias, which the sampler's routing has in it too."""
    adapter = MoEAdapter.attach(model)
    generator = torch.Generator().manual_seed(3)
    adapter.set_bias(0.5 * torch.randn(adapter.bias.shape, generator=generator))
    return adapter


def requests(count: int = 12) -> list[Request]:
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(8, 53, (length,), generator=generator).tolist() for length in (4, 9, 6)]
    return [Request(tuple(prompts[i % 3]), ("r", i)) for i in range(count)]


def sampled(model: Any, adapter: MoEAdapter, batch_tokens: int = 10**6) -> list[Response]:
    return sample(
        model,
        requests(),
        Sampling(9, temperature=1.5),
        eos_ids=[EOS, 11, 12, 13, 14],
        pad_id=0,
        batch_tokens=batch_tokens,
        routed_by=adapter,
    )


def routes_of(response: Response) -> Tensor:
    assert response.routes is not None
    return response.routes.sort(-1).values


def test_the_sampler_routes_as_one_forward_over_the_response(tiny, family, one_thread):
    model = tiny(family)
    adapter = attached(model)
    lengths = set()
    for request, response in zip(requests(), sampled(model, adapter), strict=True):
        routes = routes_of(response)
        whole = torch.tensor([request.prompt_ids + response.token_ids])
        with adapter.trace() as trace, torch.no_grad():
            model(input_ids=whole)
        assert routes.shape == (adapter.num_layers, whole.shape[1], adapter.top_k)
        read = routes[0, :, 0] != NO_ROUTE
        assert read[:-1].all(), "the last token alone may have none"
        assert torch.equal(routes[:, read].long(), trace.indices.sort(-1).values[:, read])
        lengths.add(len(response.token_ids))
    assert len(lengths) > 2, "responses of several lengths, so that finished ones were dropped"


def test_routes_do_not_depend_on_the_batches(tiny, one_thread):
    model = tiny("qwen3_moe")
    adapter = attached(model)
    for left, right in zip(sampled(model, adapter), sampled(model, adapter, batch_tokens=20), strict=True):
        assert left.token_ids == right.token_ids
        read = (routes_of(left)[0, :, 0] != NO_ROUTE) & (routes_of(right)[0, :, 0] != NO_ROUTE)
        assert read[:-1].all()
        assert torch.equal(routes_of(left)[:, read], routes_of(right)[:, read])


def loss_of(model: Any, batch: Any) -> Tensor:
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    return logits[batch.select].sin().sum()


def gradients(model: Any) -> dict[str, Tensor]:
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("mode", ["logits", "selection"])
def test_replayed_after_an_update_every_token_goes_where_the_sampler_sent_it(tiny, family, mode, one_thread):
    """And the gradient is that of a forward whose routers are made to choose so by hand."""
    model = tiny(family)
    adapter = attached(model)
    adapter.bias_mode = mode
    responses = sampled(model, adapter)
    batch = collate(
        [TokenSequence(q.prompt_ids, r.token_ids) for q, r in zip(requests(), responses, strict=True)], 0
    )
    width = batch.input_ids.shape[1]
    routes = batch_routes([r.routes for r in responses if r.routes is not None], width)
    with torch.no_grad():  # what an update does, enough to move many choices
        for m in range(adapter.num_layers):
            adapter.router_weight(m).add_(0.2 * torch.randn(adapter.router_weight(m).shape))
    with adapter.trace() as native, torch.no_grad():
        model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    given = routes[0, :, 0] != NO_ROUTE
    wanted = torch.where(routes == NO_ROUTE, 0, routes).long().sort(-1).values
    assert not torch.equal(native.indices.sort(-1).values[:, given], wanted[:, given])

    with adapter.fixed_routes(routes), adapter.trace() as replayed:
        loss = loss_of(model, batch)
        loss.backward()
    ours = gradients(model)
    assert torch.equal(replayed.indices.sort(-1).values[:, given], wanted[:, given])

    def by_hand(layer, router, args, output):
        hidden = args[0].reshape(-1, args[0].shape[-1])
        logits = router_logits(router, hidden)
        if mode == "logits":
            logits = logits + adapter.bias[layer.index]
        indices = torch.where(given[:, None], routes[layer.index].long(), output[2])
        weights = layer.rule.weigh(layer.rule.scores(logits), indices)
        return output[0], weights.to(output[1].dtype), indices

    for layer in adapter.layers:
        layer.router.register_forward_hook(
            lambda router, args, output, layer=layer: by_hand(layer, router, args, output)
        )
    loss_by_hand = loss_of(model, batch)
    loss_by_hand.backward()
    assert float((loss - loss_by_hand).detach().abs()) < 1e-5 * float(loss.detach().abs()) + 1e-5
    theirs = gradients(model)
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        assert torch.allclose(gradient, theirs[name], atol=1e-5 * float(theirs[name].abs().max()) + 1e-7), (
            name
        )


def test_routes_take_one_byte_up_to_128_experts():
    assert [route_dtype(count) for count in (8, 128, 129)] == [torch.int8, torch.int8, torch.int16]
