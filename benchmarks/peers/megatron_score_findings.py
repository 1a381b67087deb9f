"""What Megatron-core compares when it chooses and drops, where that is not what one expects."""

import torch

from benchmarks.peers.findings import BATCHES, E, Finding, K, T, normal
from benchmarks.peers.megatron import drop, route
from lp_routing.routers.selection import largest


def one_choice_has_no_score() -> Finding:
    """Softmax after a top-1 is 1 for every token, and dropping by it is dropping at random."""
    worse = 0
    for seed in range(BATCHES):
        logits = normal(seed)
        weights, wanted = route(logits, 1)
        kept = drop(weights, wanted, 1, capacity_factor=1.0)[1]
        scores = logits.softmax(-1)
        dropped = scores.masked_fill(~(wanted & ~kept), float("-inf")).amax(0)
        served = scores.masked_fill(~kept, float("inf")).amin(0)
        worse += bool((dropped > served).any())
    return Finding(
        "one choice, softmax after",
        worse > 0,
        f'topk=1 with the softmax after the choice makes every weight 1, and drop_policy="probs" '
        f"then keeps any: in {worse} of {BATCHES} random batches a token is dropped whose softmax "
        f"exceeds that of one kept at the same expert. (Megatron's configuration refuses it, its "
        f"functions do not.)",
        {"batches": BATCHES, "worse": worse},
    )


def probability_zero_loses_its_place() -> Finding:
    """Where a softmax underflows, a choice ties with all tokens that did not ask."""
    lost = 0
    for seed in range(BATCHES):
        logits = 400 * normal(seed)
        weights, wanted = route(logits, K, use_pre_softmax=True)
        kept = drop(weights, wanted, K, capacity_factor=1.25)[1]
        capacity = -(-T * K * 5 // (4 * E))
        spare = wanted.sum(0) <= capacity
        lost += int((wanted & ~kept)[:, spare].sum())
    return Finding(
        "probability zero",
        lost > 0,
        f"logits of size 400, whose second probability underflows to 0: {lost} chosen pairs in "
        f"{BATCHES} batches are dropped at experts that had room for all who asked, since a 0 "
        f"that was chosen ties with the zeros of all other tokens.",
        {"batches": BATCHES, "lost": lost},
    )


def scores_are_rounded_before_the_choice() -> Finding:
    """In half precision the softmax is rounded back before `topk`, and makes ties of its own."""
    logits, k = (0.3 * normal(0, 4096, 64)).bfloat16(), 8
    chosen = route(logits, k, use_pre_softmax=True)[1]
    wide = logits.float()
    least = wide.masked_fill(~chosen, float("inf")).amin(-1)
    best_left = wide.masked_fill(chosen, float("-inf")).amax(-1)
    worse = int((best_left > least).sum())
    return Finding(
        "bfloat16 scores",
        worse > 0,
        f"bfloat16 logits of size 0.3, k={k} of 64, softmax before: the softmax is taken in "
        f"float32 but rounded to bfloat16 before the choice, and {worse} of {len(logits)} tokens "
        f"take an expert whose logit is below that of one they leave out.",
        {"tokens": len(logits), "worse": worse},
    )


def equal_logits_go_anywhere() -> Finding:
    """`torch.topk` leaves open which of equal entries it takes; ours takes the lower expert."""
    draw = torch.Generator().manual_seed(0)
    logits = torch.randint(0, 4, (1024, 32), generator=draw).float()
    chosen = route(logits, K)[1]
    lowest = largest(logits, K)
    differ = int((chosen != lowest).any(-1).sum())
    one_logit = chosen.float()[(logits == 3).sum(-1) > K].sum(-1)
    return Finding(
        "ties",
        differ > 0,
        f"logits of four whole values: {differ} of {len(logits)} tokens take others than the "
        f"lowest of equally good experts ({len(one_logit)} have more than {K} equally best ones); "
        f"torch promises no order, and another device may take others.",
        {"tokens": len(logits), "differ": differ},
    )


def a_dropped_weight_is_lost() -> Finding:
    """Weights are normalised before dropping: what a dropped pair had is given to no other."""
    weights, wanted = route(normal(0, 1024, 32), K)
    left, kept = drop(weights, wanted, K, capacity_factor=1.0)
    one_left = kept.sum(-1) == 1
    mean = float(left[one_left].sum(-1).mean())
    return Finding(
        "weights after dropping",
        bool(one_left.any()) and mean < 0.999,
        f"{int(one_left.sum())} of 1024 tokens keep one of two choices (factor 1); their weights "
        f"sum to {mean:.2f} on average, since they are normalised before dropping. DeepSpeed "
        f"normalises after it; ours is normalise=None over softmax_over_chosen here.",
        {"tokens": int(one_left.sum()), "mean weight": mean},
    )
