"""What Megatron-core's routing does that its options do not say, each reproduced."""

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from benchmarks.peers.findings import BATCHES, E, Finding, K, T, normal
from benchmarks.peers.megatron import drop, moe_utils, route
from lp_routing.problem.capacity_factor import CAPACITY_FORMULAS
from lp_routing.routers.capacity import keep_first_choices, keep_first_tokens
from lp_routing.routers.selection import largest
from lp_routing.routers.token_choice import GroupLimited

MOST_SWEEPS = 2000
"""Sweeps of its Sinkhorn loop, which has no limit of its own, before it counts as endless."""


def position_is_not_first_come() -> Finding:
    """Dropping by position keeps some tokens, not the first ones: it ranks a 0/1 map by `topk`."""
    capacity = CAPACITY_FORMULAS["megatron"](T, E, K, 1.0)
    differ, first_token = 0, 0
    for seed in range(BATCHES):
        weights, wanted = route(normal(seed), K, use_pre_softmax=True)
        options = {"capacity_factor": 1.0, "drop_policy": "position"}
        kept = drop(weights, wanted, K, **options)[1]
        by_rank = keep_first_choices(weights, wanted, capacity, K)
        by_token = keep_first_tokens(wanted, capacity)
        differ += not (torch.equal(kept, by_token) or torch.equal(kept, by_rank))
        first_token += not torch.equal(kept[0], wanted[0])
    return Finding(
        "position dropping",
        differ > 0,
        f'drop_policy="position" is not first come, first served in {differ} of {BATCHES} random '
        f"batches ({T} x {E}, k={K}, factor 1), neither token by token nor rank by rank; token 0 "
        f"loses a place in {first_token}. It takes the top-k of a 0/1 map, all ties.",
        {"batches": BATCHES, "differ": differ, "token 0 loses": first_token},
    )


def groups_all_rank_zero() -> Finding:
    """With topk < group_topk the groups' scores are sums over topk // group_topk = 0 experts."""
    logits, groups, limit = normal(0, 1024, 32), 8, 4
    options = {"use_pre_softmax": True, "num_groups": groups, "group_topk": limit}
    chosen = route(logits, K, **options)[1]
    best = largest(logits, K)
    scores = logits.softmax(-1)
    missed = int((chosen != best).any(-1).sum())
    lost = 1 - float(scores[chosen].sum() / scores[best].sum())
    return Finding(
        "group-limited scoring, topk < group_topk",
        missed > 0,
        f"topk={K}, top {limit} of {groups} groups: every group scores 0, so {missed} of "
        f"{len(logits)} tokens miss one of their {K} best experts, which the limit allows; "
        f"{lost:.1%} of the score is lost.",
        {"tokens": len(logits), "missed": missed, "lost": lost},
    )


def groups_ranked_by_another_rule() -> Finding:
    """DeepSeek-V2 ranks a group by its best expert; here topk // group_topk decides."""
    logits, k, groups, limit = normal(0, 1024, 64), 6, 8, 3
    options = {"use_pre_softmax": True, "num_groups": groups, "group_topk": limit}
    chosen = route(logits, k, **options)[1]
    by_best = GroupLimited(k, groups, limit, "max")(logits).x
    by_two = GroupLimited(k, groups, limit, "top2")(logits).x
    differ, as_two = int((chosen != by_best).any(-1).sum()), bool((chosen == by_two).all())
    return Finding(
        "group-limited scoring, DeepSeek-V2's setting",
        differ > 0,
        f"topk={k}, top {limit} of {groups} groups: groups rank by their best topk // group_topk "
        f"= {k // limit} experts{' (our rank_by=top2 agrees)' if as_two else ''}; DeepSeek-V2 "
        f"takes the best one, and {differ} of {len(logits)} tokens go elsewhere.",
        {"tokens": len(logits), "differ": differ},
    )


def sinkhorn_overflows() -> Finding:
    """One large logit makes NaN of the plan, since exp comes before any subtraction."""
    logits = normal(0, 1024, 32)
    logits[0, 0] = 89.0
    plan = moe_utils().sinkhorn(logits)
    bad = int(plan.isnan().sum())
    loads = torch.bincount(plan.topk(1, 1).indices.flatten(), minlength=32)
    return Finding(
        "Sinkhorn overflow",
        bad > 0,
        f"one logit of 89 among {logits.numel()} (exp overflows float32 from 88.8) gives {bad} "
        f"NaN and ends the loop, whose test is false for NaN; `topk` takes NaN for the largest, "
        f"and one expert gets {int(loads.max())} of {len(logits)} tokens.",
        {"entries": logits.numel(), "nan": bad, "largest load": int(loads.max())},
    )


def sinkhorn_drifts() -> Finding:
    """An eps beside the sums makes the plan depend on a constant added to all logits."""
    logits = normal(0)
    sweeps = {shift: sinkhorn_sweeps(logits - shift) for shift in (0, 15)}
    return Finding(
        "Sinkhorn without end",
        sweeps[15] >= MOST_SWEEPS,
        f"on {T} x {E} logits it ends after {sweeps[0]} sweeps; with 15 subtracted from all of "
        f"them, which changes no softmax, "
        + (
            f"it had not ended after {MOST_SWEEPS}, when we stopped it"
            if sweeps[15] >= MOST_SWEEPS
            else f"after {sweeps[15]}"
        )
        + ": an eps of 1e-8 beside small sums moves the column factors by a constant each sweep.",
        {"sweeps": sweeps[0], "sweeps, shifted": sweeps[15]},
    )


class _Sweeps(TorchFunctionMode):
    """Counts the calls of `torch.mean`, one a sweep, and stops at `MOST_SWEEPS`."""

    count: int = 0

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is torch.mean:
            self.count += 1
            if self.count >= MOST_SWEEPS:
                raise TimeoutError
        return function(*args, **(kwargs or {}))


def sinkhorn_sweeps(logits: Tensor) -> int:
    """How many sweeps `sinkhorn` takes, `MOST_SWEEPS` at most."""
    with _Sweeps() as sweeps, suppress(TimeoutError):
        moe_utils().sinkhorn(logits)
    return int(sweeps.count)


def padding_to_capacity_is_routed() -> Finding:
    """`pad_to_capacity` fills experts with tokens that did not ask, and marks them as routed."""
    weights, wanted = route(normal(0), K, use_pre_softmax=True)
    options = {"capacity_factor": 1.25, "pad_to_capacity": True}
    weight, kept = drop(weights, wanted, K, **options)
    unasked = kept & ~wanted
    crowded = int((kept.sum(-1) > K).sum())
    return Finding(
        "pad_to_capacity",
        bool(unasked.any()),
        f"{int(unasked.sum())} of {int(kept.sum())} pairs of the routing map were asked for by no "
        f"token (their weights: {float(weight[unasked].max()):g}); {crowded} of {T} tokens have "
        f"more than {K} experts there, and every load read off it is C.",
        {"pairs": int(kept.sum()), "unasked": int(unasked.sum()), "crowded": crowded},
    )


def padding_takes_places() -> Finding:
    """The routing functions know no mask: padding competes for places with real tokens."""
    real, padding = normal(0), torch.zeros(T, E)
    padding[:, 0] = 8.0
    weights, wanted = route(torch.cat([real, padding]), K, use_pre_softmax=True)
    kept = drop(weights, wanted, K, capacity_factor=1.0)[1][:T]
    alone = drop(weights[:T], wanted[:T], K, capacity_factor=2.0)[1]
    capacity = CAPACITY_FORMULAS["megatron"](2 * T, E, K, 1.0)
    lost = int(alone.sum()) - int(kept.sum())
    return Finding(
        "padding takes places",
        lost > 0,
        f"{T} real tokens and {T} of padding that prefer expert 0, C={capacity}: "
        f"{int(kept.sum())} pairs of real tokens are kept, {int(alone.sum())} where the padding "
        f"is left out and C is the same; expert 0 serves {int(kept[:, 0].sum())} of the "
        f"{int(wanted[:T, 0].sum())} real tokens that chose it.",
        {"kept": int(kept.sum()), "kept without padding": int(alone.sum()), "lost": lost},
    )
