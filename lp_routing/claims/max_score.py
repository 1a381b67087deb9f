"""Whether MaxScore's code solves its flow (Dong et al. 2025): claim O6."""

from torch import Tensor

from lp_routing.claims.claim import Claim, ClaimInput, Counterexample, Evidence, Verdict
from lp_routing.claims.helpers import (
    balanced_optimum,
    best_by_trial,
    by_layer,
    equal_shares,
    equally_shared,
    exactly_balanced,
    rounding,
    share_above,
    span,
    too_few,
)
from lp_routing.routers.balance import Loads
from lp_routing.routers.max_score import MaxScore, MaxScoreFlow, first_choices
from lp_routing.scores import softmax

TOKENS = 256
"""Tokens of each layer: the check takes 0.25 s, and 0.73 s with 1,024 on the sample."""


def examine(subject: ClaimInput) -> Evidence:
    """The two-phase rule and its repeats on softmax scores of some tokens, by the optimum."""
    k = subject.k
    logits = equally_shared(subject, k, TOKENS)
    if logits is None:
        return too_few(k)
    lost, twice, agrees = [], [], True
    for scores in softmax(logits):
        best, slack = float(balanced_optimum(scores, k).value), rounding(len(scores))
        two_phase = MaxScore(k, score="logits").select(scores)
        value = float(scores[two_phase].sum())
        agrees &= _is_balanced(two_phase, k) and value <= best + slack
        lost.append(-share_above(value, best))
        repeats = MaxScore(k, score="logits", repeats=True).select(scores)
        twice.append(int((repeats.sum(1) < k).sum()))
    L, T, _ = logits.shape
    sentence = (
        f"On the first {T} tokens the released two-phase rule, kept from repeating an expert, "
        f"loses {span(lost)} % of the optimal flow. As released it gives "
        f"{sum(twice)} of {L * T} tokens one expert twice."
    )
    numbers = by_layer("two-phase below the optimum, %", lost) | by_layer(
        "tokens with one expert twice", twice
    )
    return Evidence(agrees, sentence, numbers)


def _is_balanced(chosen: Tensor, k: int) -> bool:
    """Whether each of T tokens has k experts and each expert T k / E tokens."""
    T, E = chosen.shape
    return bool((chosen.sum(1) == k).all()) and bool((chosen.sum(0) * E == T * k).all())


def two_phase(scores: Tensor, k: int, share: int) -> float | None:
    """The value of the two-phase rule, without repeats; None where it cannot be completed.

    First choices as the router makes them; the rest by enumeration, so that sums of whole scores
    are exact.
    """
    first = first_choices(scores, k, Loads(share, share))
    if first is None:
        return None
    rest = scores.masked_fill(first, float("-inf"))
    left = [range(share - n, share - n + 1) for n in first.sum(0).tolist()]
    more = best_by_trial(rest, range(k - 1, k), range(0), rows=left)
    return None if more is None else float(scores[first].sum()) + more


def refutes_statement(scores: Tensor) -> str | None:
    """A two-phase assignment below the optimum; whole scores."""
    for k, share in equal_shares(*scores.shape):
        if k < 2:
            continue
        value, best = two_phase(scores, k, share), exactly_balanced(scores, k)
        if value is not None and value < best:
            return f"k={k}: two phases give {value:g}, the best flow {best:g}."
    return None


def refutes_verdict(scores: Tensor) -> str | None:
    """A flow that is not the optimum, or two phases that are unbalanced or beat it."""
    for k, share in equal_shares(*scores.shape):
        best = exactly_balanced(scores, k)
        flow = MaxScoreFlow(k, score="logits").select(scores)
        if not _is_balanced(flow, k) or float(scores[flow].sum()) != best:
            return f"k={k}: the flow is {flow.int().tolist()}, the optimum {best:g}."
        chosen = MaxScore(k, score="logits").select(scores)
        value, tried = float(scores[chosen].sum()), two_phase(scores, k, share)
        if not _is_balanced(chosen, k) or value > best or (tried is not None and value != tried):
            return f"k={k}: two phases give {chosen.int().tolist()}, the optimum is {best:g}."
    return None


O6 = Claim(
    id="O6",
    title="MaxScore solves the flow",
    statement="MaxScore's routing is the minimum-cost maximum flow it is stated as.",
    formula=(
        "x maximises <s, x> subject to sum_j x_ij = k, sum_i x_ij <= C; with C = T k / E, as "
        "released, that is sum_i x_ij = T k / E"
    ),
    conditions="",
    source="Dong et al. 2025, arXiv 2508.12801; its released KM.cpp (paraphrased)",
    verdict=Verdict.FAILS,
    reason=(
        "The flow is the balanced LP: T k units through E experts of T k / E places each fill them "
        "all, whole numbers are optimal, and solved exactly it is the optimum. The released code "
        "solves only half of it. First choices are made greedily in token order, so early tokens "
        "fill an expert that later ones need more; then the other choices are matched exactly to "
        "the places left. And a first choice is only scored 0 in the second phase, not forbidden: "
        "a token can get one expert twice. The two-phase value is at most the optimum."
    ),
    examine=examine,
    counterexample=Counterexample(
        ((9, 1, 5), (9, 1, 5), (10, 2, 1)),
        "k = 2, so each expert has 2 places. Tokens 1 and 2 take expert 1 (9 + 9), which is full "
        "then; token 3 must take expert 2 (2). One place is left at expert 2, two at expert 3; "
        "token 3 takes expert 3 (1), one of the others too (5), the last expert 2 (1): 27. The "
        "best lets token 3 have expert 1: 9 + 5, 1 + 5, 10 + 2 = 32. As released, token 3 may take "
        "expert 2 again for 0, which leaves 5 + 5 to the others, more than 1 + 5 + 1: it does.",
    ),
    refutes_statement=refutes_statement,
    refutes_verdict=refutes_verdict,
)

CLAIMS: tuple[Claim, ...] = (O6,)
