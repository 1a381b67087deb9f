"""DeepSpeed's gating functions; their choice is read off the dispatch mask (T, E, C)."""

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers.compare import CapacityRule, Subject
from lp_routing.problem.capacity_factor import CapacityFactor
from lp_routing.routers.token_choice import TopK

FACTOR = 1.0
MINIMUM = 4


@cache
def sharded_moe() -> Any:
    """The module that holds its gating functions."""
    return import_module("deepspeed.moe.sharded_moe")


def subjects(_: int, k: int) -> Sequence[Subject | CapacityRule]:
    """What states a rule of ours: without dropping, by position in both orders, by score."""
    capacity = CapacityFactor(FACTOR, "deepspeed", minimum=MINIMUM)
    first_tokens = TopK(k, capacity, "position", "token")
    return [
        Subject("top1gating, no dropping", top1, TopK(1)),
        Subject("top1gating, no dropping, used_token", top1, TopK(1), padded=True),
        Subject("top2gating, no dropping", lambda x, _: top2(x, drop_tokens=False), TopK(2)),
        Subject("top2gating, dropping", lambda x, _: top2(x), TopK(2, capacity, "position")),
        Subject("topkgating, no dropping", lambda x, _: topk(x, k, drop_tokens=False), TopK(k)),
        Subject('topkgating, drop_policy="probs"', lambda x, _: topk(x, k), TopK(k, capacity)),
        Subject(
            'topkgating, drop_policy="position"',
            lambda x, _: topk(x, k, drop_policy="position"),
            first_tokens,
        ),
        CapacityRule("topkgating, width of its dispatch mask", capacity_of, "deepspeed"),
    ]


def top1(logits: Tensor, mask: Tensor | None) -> Tensor:
    """`top1gating` without dropping; boolean (T, E)."""
    used = None if mask is None else mask.long()
    return served(
        sharded_moe().top1gating(logits, FACTOR, MINIMUM, used, drop_tokens=False, use_rts=False)
    )


def top2(logits: Tensor, **options: Any) -> Tensor:
    """`top2gating` without its random second choice; boolean (T, E)."""
    gate = sharded_moe().top2gating
    return served(gate(logits, FACTOR, MINIMUM, top2_2nd_expert_sampling=False, **options))


def topk(logits: Tensor, k: int, **options: Any) -> Tensor:
    """`topkgating`; boolean (T, E)."""
    return served(sharded_moe().topkgating(logits, k, FACTOR, MINIMUM, **options))


def served(gating: Sequence[Any]) -> Tensor:
    """Which pairs have a place: l_aux, combine_weights, dispatch_mask, exp_counts -> (T, E)."""
    dispatch_mask: Tensor = gating[2]
    return dispatch_mask.any(-1)


def capacity_of(T: int, E: int, k: int, factor: float) -> int:
    """The places that `topkgating` makes for each expert."""
    return int(sharded_moe().topkgating(torch.zeros(T, E), k, factor, 0)[2].shape[-1])
