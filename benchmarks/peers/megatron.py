"""Megatron-core's routing functions, called as its own router calls them."""

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers.compare import CapacityRule, PeerMap, Subject
from lp_routing.problem.capacity_factor import CapacityFactor
from lp_routing.routers.dual_updates import LossFree
from lp_routing.routers.sinkhorn import Sinkhorn
from lp_routing.routers.token_choice import GroupLimited, TopK
from lp_routing.scores import ScoreFunction, masked, sigmoid

FACTOR = 1.0
TOP_GROUPS = 2


@cache
def moe_utils() -> Any:
    """The module that holds its routing functions."""
    return import_module("megatron.core.transformer.moe.moe_utils")


def route(logits: Tensor, k: int, **options: Any) -> tuple[Tensor, Tensor]:
    """Its weights and its choice before dropping, both (T, E)."""
    weights, chosen = moe_utils().topk_routing_with_score_function(logits, k, **options)
    return weights, chosen


def drop(weights: Tensor, chosen: Tensor, k: int, **options: Any) -> tuple[Tensor, Tensor]:
    """Its weights and its choice after dropping, both (T, E)."""
    kept_weights, kept = moe_utils().apply_router_token_dropping(weights, chosen, k, **options)
    return kept_weights, kept


def subjects(E: int, k: int) -> Sequence[Subject | CapacityRule]:
    """What states a rule of ours: score functions, bias, groups, dropping by score, capacity."""
    capacity = CapacityFactor(FACTOR, "megatron")
    bias = torch.linspace(-0.2, 0.2, E)
    found: list[Subject | CapacityRule] = [
        Subject("top-k, softmax before", chosen(k, use_pre_softmax=True), TopK(k)),
        Subject("top-k, softmax after", chosen(k), TopK(k, score="logits")),
        Subject("top-k, sigmoid", chosen(k, score_function="sigmoid"), TopK(k, score="sigmoid")),
        Subject(
            "top-k, sigmoid + expert_bias",
            chosen(k, score_function="sigmoid", expert_bias=bias),
            LossFree(k),
            state=bias,
        ),
        Subject(
            'drop "probs", softmax before',
            kept(k, use_pre_softmax=True),
            TopK(k, capacity),
        ),
        Subject('drop "probs", softmax after', kept(k), TopK(k, capacity, score=over_chosen(k))),
        Subject(
            "sinkhorn in float64, tol=1e-5, row top-k",
            lambda logits, _: by_plan(logits, k),
            Sinkhorn(k, temperature=1.0, tolerance=1e-6, score="logits"),
        ),
        CapacityRule("get_capacity", capacity_of, "megatron"),
    ]
    groups = next((G for G in (8, 4) if E % G == 0 and E >= 2 * G), None)
    return found + ([] if groups is None else group_limited(groups, bias))


def group_limited(groups: int, bias: Tensor) -> list[Subject | CapacityRule]:
    """Groups ranked by their best topk / group_topk experts; ours names that for one and two."""
    limits = {"num_groups": groups, "group_topk": TOP_GROUPS}
    one, two = TOP_GROUPS, 2 * TOP_GROUPS
    return [
        Subject(
            f"top {TOP_GROUPS} of {groups} groups, topk={one}",
            chosen(one, use_pre_softmax=True, **limits),
            GroupLimited(one, groups, TOP_GROUPS, "max"),
        ),
        Subject(
            f"top {TOP_GROUPS} of {groups} groups, topk={two}",
            chosen(two, use_pre_softmax=True, **limits),
            GroupLimited(two, groups, TOP_GROUPS, "top2"),
        ),
        Subject(
            f"top {TOP_GROUPS} of {groups} groups, sigmoid + expert_bias, topk={two}",
            chosen(two, score_function="sigmoid", expert_bias=bias, **limits),
            GroupLimited(two, groups, TOP_GROUPS, "top2", score=biased(bias)),
        ),
    ]


def chosen(k: int, **options: Any) -> PeerMap:
    """`topk_routing_with_score_function` as a map."""
    return lambda logits, _: route(logits, k, **options)[1]


def kept(k: int, **options: Any) -> PeerMap:
    """The same with `apply_router_token_dropping` by probability behind it."""

    def choose(logits: Tensor, _: Tensor | None) -> Tensor:
        return drop(*route(logits, k, **options), k, capacity_factor=FACTOR, drop_policy="probs")[1]

    return choose


def capacity_of(T: int, E: int, k: int, factor: float) -> int:
    """`get_capacity`, called with T K tokens as `apply_router_token_dropping` does."""
    return int(moe_utils().get_capacity(T * k, E, factor))


def biased(bias: Tensor, score: ScoreFunction = sigmoid) -> ScoreFunction:
    """A score with a bias for each expert, as a score function."""

    def plus_bias(logits: Tensor, mask: Tensor | None = None) -> Tensor:
        return score(logits, mask) + bias

    plus_bias.__name__ = f"{getattr(score, '__name__', 'score')}_plus_bias"
    return plus_bias


def over_chosen(k: int) -> ScoreFunction:
    """A softmax over the k largest logits of a token alone, as a score function."""

    def softmax_over_chosen(logits: Tensor, mask: Tensor | None = None) -> Tensor:
        largest = torch.topk(logits, k)
        scores = torch.full_like(logits, float("-inf"))
        return masked(scores.scatter(-1, largest.indices, largest.values.softmax(-1)), mask)

    return softmax_over_chosen


def by_plan(logits: Tensor, k: int) -> Tensor:
    """The row top-k of `sinkhorn`'s plan, as its router takes it; boolean (T, E).

    In float64 and to a small tolerance, so that what is compared is the rule: at the default
    tolerance near ties depend on where the loop happens to stop. A constant is added to the logits
    of each token, which changes no plan, since the loop may not end where all are small (see
    `megatron_findings.sinkhorn_drifts`).
    """
    wide = logits.double()
    plan = moe_utils().sinkhorn(wide - wide.logsumexp(-1, keepdim=True) + 5, tol=1e-5)
    nowhere = torch.zeros_like(logits, dtype=torch.bool)
    return nowhere.scatter(1, plan.topk(k, dim=1).indices, True)
