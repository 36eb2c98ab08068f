"""Two checkpoints' routes of the same tokens, against loops written out."""

import numpy as np
import pytest
import torch

from padd_stages.analyze_experts.checkpoint_shift import expert_flow, first_experts, shift_json
from padd_stages.analyze_experts.probe import TokenRoutes

LAYERS, TOKENS, EXPERTS, TOP_K = 3, 41, 6, 2


def routes(seed):
    logits = torch.randn(LAYERS, TOKENS, EXPERTS, generator=torch.Generator().manual_seed(seed))
    # unsorted, as some families choose
    return TokenRoutes(logits.softmax(-1), logits.topk(TOP_K).indices.flip(-1).to(torch.int16))


def moved(old, share, seed=9):
    """The same routes, with other probabilities and sets in a share of the tokens."""
    new, change = routes(seed), torch.arange(TOKENS) < share * TOKENS
    return TokenRoutes(
        torch.where(change[None, :, None], new.probs, old.probs),
        torch.where(change[None, :, None], new.indices, old.indices),
    )


def test_equals_the_obvious_version():
    old, new = routes(0), moved(routes(0), 0.5)
    report = shift_json(old, new)
    shift = [
        sum(float((new.probs[m, t] - old.probs[m, t]).abs().sum()) for m in range(LAYERS)) / LAYERS
        for t in range(TOKENS)
    ]
    sets = [
        [(set(o.tolist()), set(n.tolist())) for o, n in zip(old.indices[m], new.indices[m], strict=True)]
        for m in range(LAYERS)
    ]
    assert report["tokens"] == TOKENS
    assert report["mean"] == pytest.approx(np.mean(shift))
    assert report["quantiles"] == pytest.approx([np.percentile(shift, q) for q in range(101)])
    assert report["mean"] == pytest.approx(np.mean(report["mean_by_layer"]))
    same = [np.mean([a == b for a, b in layer]) for layer in sets]
    assert report["same_top_k_by_layer"] == pytest.approx(same)
    assert report["same_top_k"] == pytest.approx(np.mean(same))
    assert report["jaccard"] == pytest.approx(
        [np.mean([len(a & b) / len(a | b) for a, b in s]) for s in sets]
    )
    whole = np.mean([all(a == b for a, b in path) for path in zip(*sets, strict=True)])
    assert report["path_consistency"] == pytest.approx(whole)
    assert 0.4 < whole <= min(same) < max(same) < 1


def test_extremes():
    old = routes(1)
    report = shift_json(old, old)
    assert (report["mean"], report["same_top_k"], report["path_consistency"]) == (0.0, 1.0, 1.0)
    one_hot = torch.zeros(LAYERS, TOKENS, EXPERTS)
    here, there = one_hot.clone(), one_hot.clone()
    here[..., 0], there[..., 5] = 1, 1
    sets = (
        torch.tensor([0, 1]).expand(LAYERS, TOKENS, TOP_K),
        torch.tensor([5, 4]).expand(LAYERS, TOKENS, TOP_K),
    )
    report = shift_json(TokenRoutes(here, sets[0]), TokenRoutes(there, sets[1]))
    assert report["quantiles"] == [2.0] * 101
    assert (report["same_top_k"], report["jaccard"]) == (0.0, [0.0] * LAYERS)


def test_flow_counts_first_experts():
    old, new = routes(2), routes(3)
    flow = expert_flow(old, new)
    assert flow.shape == (LAYERS, EXPERTS, EXPERTS)
    for m in range(LAYERS):
        slow = torch.zeros(EXPERTS, EXPERTS, dtype=torch.int32)
        for t in range(TOKENS):
            slow[old.probs[m, t].argmax(), new.probs[m, t].argmax()] += 1
        assert torch.equal(flow[m], slow)


def test_the_first_expert_is_one_of_the_chosen():
    probs = torch.tensor([[[0.5, 0.3, 0.2]]])
    assert first_experts(TokenRoutes(probs, torch.tensor([[[2, 1]]]))).tolist() == [[1]]
