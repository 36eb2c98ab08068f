"""Routing rules: a family's way from router logits to a choice of experts and their weights.

A rule is found, not declared: candidates are built from the router's own attributes, and the one that reproduces the
router exactly on a random batch is kept. A family whose routing is none of them (Phi-MoE's SparseMixer) is refused.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from padd_stages.lib.objectives.precision import no_autocast

# Chosen: with 64 tokens softmax-then-top-K and top-K-then-softmax, equal in mathematics, differ in some last bit.
PROBE_TOKENS = 64
# The constant that DeepSeek-V3 and its descendants add to the sum before they renormalise (modeling_deepseek_v3.py).
SIGMOID_SUM_EPSILON = 1e-20


@dataclass(frozen=True)
class Groups:
    """Group-limited routing: only the `kept` best of `count` equal groups of experts may be chosen."""

    count: int
    kept: int
    ranked_by: Literal[
        "max", "top2"
    ]  # DeepSeek-V2 ranks a group by its best score, V3 by the sum of its two best

    def allowed(self, scores: Tensor) -> Tensor:
        """Return the mask (tokens, N), true on the experts of each token's kept groups; `scores` is (tokens, N)."""
        grouped = scores.unflatten(-1, (self.count, -1))
        ranks = grouped.topk(1 if self.ranked_by == "max" else 2, dim=-1).values.sum(dim=-1)
        best = ranks.topk(self.kept, dim=-1, sorted=False).indices
        mask = torch.zeros_like(ranks, dtype=torch.bool).scatter(-1, best, True)
        return mask.unsqueeze(-1).expand_as(grouped).flatten(-2)


@dataclass(frozen=True)
class Rule:
    """One family's routing, in three steps: logits -> scores, scores -> indices, scores and indices -> weights.

    score: what top-K compares. "logits" means top-K first and a softmax over the K chosen (GPT-OSS, Granite).
    renormalise: the K weights are divided by their sum. scale: the routed scaling factor (1 where there is none).
    ordered: whether top-K sorts; unsorted top-K returns another order of the same experts.
    """

    score: Literal["softmax", "sigmoid", "logits"]
    top_k: int
    renormalise: bool
    scale: float
    ordered: bool
    groups: Groups | None

    def scores(self, logits: Tensor) -> Tensor:
        """Compute the scores (tokens, N) of logits (tokens, N), both fp32."""
        if self.score == "softmax":
            return logits.softmax(dim=-1)
        return logits.sigmoid() if self.score == "sigmoid" else logits

    def choose(self, scores: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        """Return the indices (tokens, K) of the best scores; `offsets`, (N,) each, are added for the choice alone."""
        for offset in offsets:
            scores = scores + offset
        if self.groups is not None:
            scores = scores.masked_fill(~self.groups.allowed(scores), float("-inf"))
        return scores.topk(self.top_k, dim=-1, sorted=self.ordered).indices

    def weigh(self, scores: Tensor, indices: Tensor) -> Tensor:
        """Compute the weights (tokens, K) of the chosen experts, from scores without any offset."""
        chosen = scores.gather(-1, indices)
        if self.score == "logits":
            chosen = chosen.softmax(dim=-1)
        elif self.renormalise:
            total = chosen.sum(dim=-1, keepdim=True)
            chosen = chosen / (total + SIGMOID_SUM_EPSILON if self.score == "sigmoid" else total)
        return chosen * self.scale

    def probs(self, logits: Tensor) -> Tensor:
        """Compute G of docs/METHOD.md, section 0: (..., N) fp32, sums to 1; normalised scores for sigmoid routers."""
        if self.score != "sigmoid":
            return logits.softmax(dim=-1)
        scores = logits.sigmoid()
        return scores / (scores.sum(dim=-1, keepdim=True) + SIGMOID_SUM_EPSILON)


def router_logits(router: Any, hidden: Tensor) -> Tensor:
    """Compute the logits (tokens, N) of router inputs (tokens, D) in fp32, for any weight dtype and autocast."""
    bias = getattr(router, "bias", None)
    with no_autocast(hidden.device):  # the weight is no parameter while factors are beside it
        return F.linear(hidden.float(), router.weight.float(), None if bias is None else bias.float())


def router_weight(router: nn.Module) -> nn.Parameter:
    """Return the router's matrix, (N, D)."""
    weight = router.weight
    assert isinstance(weight, nn.Parameter)
    return weight


def correction_offsets(router: nn.Module) -> tuple[Tensor, ...]:
    """Return the checkpoint's own selection bias as offsets for `Rule.choose` (DeepSeek-V3's correction bias)."""
    correction = getattr(router, "e_score_correction_bias", None)
    return () if correction is None else (correction.float(),)


def are_alike(router: nn.Module, other: nn.Module) -> bool:
    """Return whether two routers differ in the values of their tensors alone, which `find_rule` does not read."""
    return _settings(router) == _settings(other)


def _settings(router: nn.Module) -> list[object]:
    parts: list[object] = []
    for module in router.modules():
        parts += [
            type(module),
            {name: value for name, value in vars(module).items() if not name.startswith("_")},
        ]
    return parts + [(name, x.shape) for name, x in [*router.named_parameters(), *router.named_buffers()]]


def find_rule(router: nn.Module) -> Rule | None:
    """Find the rule that reproduces `router` exactly; None if there is none.

    It is compared on a copy in fp32 with random weights and random corrections, because a freshly made checkpoint
    (corrections all zero) would let a wrong rule pass. Logits, weights and indices must be equal bit for bit.
    """
    if not isinstance(getattr(router, "weight", None), nn.Parameter) or not hasattr(router, "top_k"):
        return None
    probe = _randomised_copy(router)
    weight = router_weight(probe)
    hidden = _noise((PROBE_TOKENS, weight.shape[-1]), seed=len(weight)).to(weight.device)
    with torch.no_grad(), no_autocast(hidden.device):
        try:
            native = type(probe).forward(probe, hidden)  # past the hooks, which the copy has too
        except TypeError:  # routers that need more than hidden states (MiniMax-M2)
            return None
        logits = router_logits(probe, hidden)
        if not isinstance(native, tuple) or len(native) != 3 or not torch.equal(native[0], logits):
            return None
        for rule in _candidates(router):
            scores = rule.scores(logits)
            indices = rule.choose(scores, correction_offsets(probe))
            if torch.equal(indices, native[2]) and torch.equal(rule.weigh(scores, indices), native[1]):
                return rule
    return None


def _candidates(router: nn.Module) -> Iterator[Rule]:
    top_k = int(getattr(router, "top_k"))  # noqa: B009 (the type checker knows nn.Module attributes as modules)
    scales = dict.fromkeys((float(getattr(router, "routed_scaling_factor", 1.0)), 1.0))
    count, kept = getattr(router, "num_group", None), getattr(router, "topk_group", None)
    groups: list[Groups | None] = [None]
    if (
        count and kept and count > 1
    ):  # grouped rules first: without groups a rule may differ on rare tokens only
        groups = [Groups(count, kept, "max"), Groups(count, kept, "top2"), None]
    for score, renormalise, scale, ordered, group in product(
        ("softmax", "sigmoid", "logits"), (False, True), scales, (True, False), groups
    ):
        yield Rule(score, top_k, renormalise, scale, ordered, group)


def _randomised_copy(router: nn.Module) -> nn.Module:
    probe = copy.deepcopy(router).float().eval()
    if router_weight(router).is_meta:  # all that it computes with is set below
        probe.to_empty(device="cpu")
    for seed, values in enumerate([*probe.parameters(), *probe.buffers()]):
        if values.is_floating_point():
            values.data.copy_(_noise(values.shape, seed) * values.shape[-1] ** -0.5)
    return probe


def _noise(shape: tuple[int, ...], seed: int) -> Tensor:
    # A generator of its own: attaching an adapter must not move anybody's random state.
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
