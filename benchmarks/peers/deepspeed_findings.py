"""What DeepSpeed's gating does that its options do not say, each reproduced."""

import torch

from benchmarks.peers.deepspeed import served, sharded_moe
from benchmarks.peers.findings import BATCHES, E, Finding, K, T, normal
from lp_routing.problem.capacity_factor import CAPACITY_FORMULAS
from lp_routing.routers.capacity import keep_first_tokens
from lp_routing.routers.selection import largest


def top1_is_not_first_come() -> Finding:
    """Without random token selection `top1gating` ranks a 0/1 map by `topk`."""
    capacity = CAPACITY_FORMULAS["deepspeed"](T, E, 1, 1.0)
    differ = 0
    for seed in range(BATCHES):
        logits = normal(seed)
        kept = served(sharded_moe().top1gating(logits, 1.0, 0, use_rts=False))
        differ += not torch.equal(kept, keep_first_tokens(largest(logits, 1), capacity))
    return Finding(
        "top1gating, use_rts=False",
        differ > 0,
        f"without random token selection {differ} of {BATCHES} random batches ({T} x {E}, factor "
        f"1) are not first come, first served: places go by the top-k of a 0/1 map, all ties.",
        {"batches": BATCHES, "differ": differ},
    )


def sampling_changes_the_callers_logits() -> Finding:
    """The noise of the second choice is added in place."""
    logits = normal(0)
    before = logits.clone()
    torch.manual_seed(0)
    sharded_moe().top2gating(logits, 1.0, 0)
    changed = int((logits != before).sum())
    return Finding(
        "top2gating changes its input",
        changed > 0,
        f"top2_2nd_expert_sampling=True, the default, adds its noise in place: {changed} of "
        f"{logits.numel()} logits of the caller are others afterwards, so that any statistic taken "
        f"of them later is of noisy ones.",
        {"entries": logits.numel(), "changed": changed},
    )


def a_weight_of_zero_is_not_dispatched() -> Finding:
    """The dispatch mask is where the combine weights are not 0."""
    logits = 400 * normal(0)
    kept = served(sharded_moe().topkgating(logits, K, 1.0, 0, drop_tokens=False))
    lost = K * T - int(kept.sum())
    return Finding(
        "weight zero",
        lost > 0,
        f"logits of size 400, no dropping: {lost} of {K * T} pairs are not in the dispatch mask, "
        f"since their weight underflows to 0 and the mask is where weights are not; exp_counts "
        f"still counts them.",
        {"pairs": K * T, "lost": lost},
    )


def padding_takes_places() -> Finding:
    """`used_token` exists for one choice; with two or more, padding competes for places."""
    real, padding = normal(0), torch.zeros(T, E)
    padding[:, 0] = 8.0
    gate = sharded_moe().topkgating
    kept = served(gate(torch.cat([real, padding]), K, 1.0, 0))[:T]
    alone = served(gate(real, K, 2.0, 0))
    lost = int(alone.sum()) - int(kept.sum())
    return Finding(
        "padding takes places",
        lost > 0,
        f"topkgating takes no mask: {T} real tokens and {T} of padding that prefer expert 0, the "
        f"same C: {int(kept.sum())} pairs of real tokens are kept, {int(alone.sum())} without "
        f"padding; expert 0 serves {int(kept[:, 0].sum())} real tokens instead of "
        f"{int(alone[:, 0].sum())}. top1gating has used_token; top2gating has none either.",
        {"kept": int(kept.sum()), "kept without padding": int(alone.sum()), "lost": lost},
    )


def counts_are_of_wishes() -> Finding:
    """`exp_counts` is what was asked for, before dropping."""
    gating = sharded_moe().topkgating(normal(0), K, 1.0, 0)
    asked, dispatched = int(gating[3].sum()), int(served(gating).sum())
    return Finding(
        "exp_counts",
        asked != dispatched,
        f"exp_counts sums to {asked}, the dispatch mask to {dispatched} (topkgating, factor 1): "
        f"the counts are of what tokens asked for, not of what experts serve.",
        {"asked": asked, "dispatched": dispatched},
    )


def what_is_left_is_normalised() -> Finding:
    """Weights are normalised after dropping: a token's weights sum to 1 or to 0."""
    weights = sharded_moe().topkgating(normal(0, 1024, 32), K, 1.0, 0)[1].sum(-1)
    kept = (weights > 0).sum(-1)
    one_left = kept == 1
    mean = float(weights[one_left].sum(-1).mean())
    return Finding(
        "weights after dropping",
        bool(one_left.any()) and mean > 0.999,
        f"{int(one_left.sum())} of 1024 tokens keep one of two choices (factor 1); that one gets "
        f'weight {mean:.2f}: normalised after dropping, as our normalise="kept". Megatron-core '
        f"normalises before it.",
        {"tokens": int(one_left.sum()), "mean weight": mean},
    )
