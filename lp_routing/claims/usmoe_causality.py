"""USMoE: whether a token's routing depends on later tokens, in its score and in its choice (B6)."""

from typing import NamedTuple

import torch
from torch import Tensor

from lp_routing.certificate.certificate import certify
from lp_routing.certificate.prices import Prices
from lp_routing.claims.claim import Claim, Counterexample, Evidence, Subject, Verdict
from lp_routing.claims.layers import by_layer, span
from lp_routing.claims.usmoe_rules import CODE, PAPER, cut_of, pooled_choice, row_choice
from lp_routing.problem.named import unified as unified_problem
from lp_routing.routers.sparse import Threshold
from lp_routing.scores import unified, unified_v1


class Layer(NamedTuple):
    """What later tokens change in the first half, in per cent; and what is true instead."""

    changed: float
    alone: float
    leak: float
    budget: float
    agrees: bool


def threshold_choice(scores: Tensor, value: float) -> Tensor:
    """Every pair from a value on, boolean (T, E)."""
    return Threshold(value, score="logits").select(scores)


def percent(differs: Tensor) -> float:
    """How many tokens of boolean (T, E) have a pair marked, in per cent."""
    return 100 * float(differs.any(-1).double().mean())


def examined(logits: Tensor, k: int) -> Layer:
    """One layer: its first half alone and with the rest; every token alone; a fixed threshold."""
    T = logits.shape[0]
    half, scores, rows = T // 2, unified(logits), row_choice(unified(logits), k)
    prefix = unified(logits[:half])
    whole, first = pooled_choice(scores, k), pooled_choice(prefix, k)
    alone = pooled_choice(unified(logits[:, None]), k)[:, 0]
    leak = float((unified_v1(logits)[:half] - unified_v1(logits[:half])).abs().max())
    # the cut of the first half, known when the second begins
    value = cut_of(prefix, k * half)
    fixed = threshold_choice(scores, value)
    N = int(fixed.sum())
    proof = certify(unified_problem(scores, N), fixed, Prices(total=value))
    agrees = (
        torch.equal(scores[:half], prefix)
        and torch.equal(rows[:half], row_choice(prefix, k))
        and torch.equal(fixed[:half], threshold_choice(prefix, value))
        and torch.equal(alone, rows)
        and proof.proves_optimal()
    )
    return Layer(percent(whole[:half] != first), percent(whole != alone), leak, N / (k * T), agrees)


def examine(subject: Subject) -> Evidence:
    """What the second half of the tokens changes in the first; decoding; a fixed threshold."""
    L, T, _ = subject.shape
    if T < 2:
        return Evidence(None, "There is one token, and none later.")
    layers = [examined(logits, subject.k) for logits in subject.logits]
    changed, alone, leak, budget = (
        [float(layer[field]) for layer in layers] for field in range(len(Layer._fields) - 1)
    )
    sentence = (
        f"The score of the first {T // 2} tokens is the same with and without the rest (v1's "
        f"differs by up to {max(leak):.1g}), but their experts under unified are not for "
        f"{span(changed)} % of them: breaks here on {sum(c > 0 for c in changed)} of {L} layers; "
        f"token choice changes none. Decoded one by one all tokens get token choice, other experts "
        f"than in the pool for {span(alone)} %. The first half's cut as a fixed threshold is "
        f"causal, takes {span(budget)} times the budget, and is proved optimal for what it takes."
    )
    numbers = (
        by_layer("% of tokens that later ones change", changed)
        | by_layer("% of tokens with other experts decoded alone", alone)
        | by_layer("largest change of v1's score", leak)
        | by_layer("budget of the threshold over k T", budget)
    )
    return Evidence(all(layer.agrees for layer in layers), sentence, numbers)


def breaks(scores: Tensor) -> str | None:
    """A pair that is taken or not, however ties are broken, and otherwise with later tokens."""
    T, E = scores.shape
    for k in range(1, E):
        taken, left = surely(scores, k)
        for n in range(1, T):
            taken_before, left_before = surely(scores[:n], k)
            pushed = (taken_before & left[:n]) | (left_before & taken[:n])
            if bool(pushed.any()):
                i, j = pushed.nonzero()[0].tolist()
                return f"k={k}: whether token {i} gets expert {j} depends on token {n} and later."
    return None


def surely(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Pairs that the pool takes, and pairs that it leaves, however ties are broken.

    A pair is surely taken where no more than N are as large, surely left where N are larger.
    """
    N, pool, chosen = k * scores.shape[0], scores.flatten(), pooled_choice(scores, k)
    as_large = (pool >= scores[..., None]).sum(-1)
    larger = (pool > scores[..., None]).sum(-1)
    return (as_large <= N) & chosen, (larger >= N) & ~chosen


def betrays(scores: Tensor) -> str | None:
    """A score, token choice or threshold that later tokens change; a threshold that is not best.

    The scores serve as logits, too.
    """
    T, E = scores.shape
    both = unified(scores)
    for n in range(1, T + 1):
        if not torch.equal(both[:n], unified(scores[:n])):
            return f"the score of the first {n} tokens changes with later ones."
        for k in range(1, E + 1):
            if not torch.equal(row_choice(scores, k)[:n], row_choice(scores[:n], k)):
                return f"k={k}: token choice of the first {n} tokens changes with later ones."
    for k in range(1, E + 1):
        if not torch.equal(pooled_choice(scores[:, None], k)[:, 0], row_choice(scores, k)):
            return f"k={k}: one token alone does not get token choice."
    for value in sorted(set(scores.flatten().tolist())):
        fixed = threshold_choice(scores, value)
        for n in range(1, T):
            if not torch.equal(fixed[:n], threshold_choice(scores[:n], value)):
                return f"the threshold {value:g} is not causal."
        budget = unified_problem(scores, int(fixed.sum()))
        proof = certify(budget, fixed, Prices(total=value), exact=True)
        if proof.gap != 0 or proof.violation_count:
            return f"the threshold {value:g} is not optimal for what it takes."
    return None


B6 = Claim(
    id="B6",
    title="a sigmoid stops information leakage",
    statement=(
        "With a sigmoid in place of the softmax over tokens no information leaks from later tokens."
    ),
    formula="s_ij depends on the logits of token i alone, therefore x = top-N of s is causal",
    conditions="",
    source=f"{PAPER}, v2 and v3 (sigmoid) against v1 (softmax over tokens); {CODE}",
    verdict=Verdict.FAILS,
    reason=(
        "True of the score, which becomes a function of its own row; false of the router, whose "
        "cut is the N-th largest of all scores, later tokens included. Expert choice leaks in the "
        "same way; token choice is causal. In cached decoding the pool is one token and top-K of a "
        "pool of one is token choice: another rule than in training. A threshold fixed in advance "
        "is causal, and as the price of a pair it proves its own choice optimal for whatever "
        "budget it comes to use."
    ),
    examine=examine,
    counterexample=Counterexample(
        ((2, 1), (4, 3)),
        "Scores, K = 1. Token 1 alone: N = 1, it takes expert 1 (score 2). With token 2, N = 2 and "
        "the two largest are 4 and 3: token 1 loses its expert to a token that comes later.",
    ),
    breaks=breaks,
    betrays=betrays,
    forbidden_too=True,
)
