"""What BIP-based balancing solves (Sun 2025): claim O1."""

import math
from itertools import pairwise

import torch
from torch import Tensor

from lp_routing.certificate.prices import Prices
from lp_routing.claims.claim import Claim, ClaimInput, Counterexample, Evidence, Verdict
from lp_routing.claims.helpers import (
    balanced_dual,
    balanced_optimum,
    best_by_trial,
    by_layer,
    equal_shares,
    exactly_balanced,
    rounding,
    share_above,
    span,
)
from lp_routing.evaluation.evaluate import max_over_mean
from lp_routing.routers.dual_updates import BIP
from lp_routing.scores import softmax

TURNS = 14
"""Turns of the price updates: the most that the paper uses for a batch."""
PATIENCE = 40
"""Turns on a small matrix within which prices must stop changing.

More only cost time: on matrices up to 3 x 3 over 0, 1, 2 they stop within 2.
"""


def turns(scores: Tensor, k: int, count: int) -> list[Tensor]:
    """The prices (E,) after 0, 1, ... turns on scores (T, E), until they stop changing."""
    router = BIP(k, iterations=1, score="logits")
    prices = [router.initial(scores)]
    for _ in range(count):
        prices.append(router.step(scores, prices[-1])[1])
        if bool((prices[-1] == prices[-2]).all()):
            break
    return prices


def at_most_dual(scores: Tensor, prices: Tensor, k: int, most: int) -> float:
    """The dual of the problem with <= at prices (E,) of 0 or above; `most` tokens an expert."""
    earned = (scores - prices).topk(k).values.clamp(min=0).sum()
    return float(earned + most * prices.sum())


def at_zero(prices: Prices, E: int) -> Tensor:
    """Prices of experts (E,) moved up or down together until the least is 0; zeros without any."""
    if prices.experts is None:
        return torch.zeros(E, dtype=torch.float64)
    return prices.experts - prices.experts.min()


def examine(subject: ClaimInput) -> Evidence:
    """The bounds that BIP's turns prove on softmax scores, the optimum, and the loads."""
    k, agrees, rising = subject.k, True, 0
    ends, optima, ceilings, fullest = [], [], [], []
    for logits in subject.logits:
        scores = softmax(logits)
        T, E = scores.shape
        most = math.ceil(T * k / E)
        prices = turns(scores, k, TURNS)
        bounds = [at_most_dual(scores, q, k, most) for q in prices]
        equal = balanced_optimum(scores, k)
        optimum, supporting = float(equal.value), at_zero(equal.prices, E)
        slack = rounding(bounds[0])
        rising += any(late > early + slack for early, late in pairwise(bounds))
        agrees &= bounds[-1] >= optimum - slack and bool((prices[-1] >= 0).all())
        routed, _ = BIP(k, TURNS, score="logits").step(scores, prices[0])
        ends.append(bounds[-1])
        optima.append(optimum)
        ceilings.append(at_most_dual(scores, supporting, k, most))
        fullest.append(float(max_over_mean(routed.sum(0))))
    above = [share_above(end, best) for end, best in zip(ends, optima, strict=True)]
    allowed = [share_above(top, best) for top, best in zip(ceilings, optima, strict=True)]
    sentence = (
        f"After up to {TURNS} turns the prices prove a bound {span(above)} % above the optimum "
        f"with equal loads; it rose on {rising} of {len(ends)} layers. The optimum with "
        f"<= is at most {span(allowed)} % above that with equal loads; beyond that the turns stand "
        f"still or still descend. The top-{k} at these prices "
        f"fills an expert to {span(fullest)} times the mean load."
    )
    numbers = (
        by_layer(f"bound after {TURNS} turns", ends)
        | by_layer("optimum with equal loads", optima)
        | by_layer("most that the optimum with <= can be", ceilings)
        | by_layer("fullest load over the mean", fullest)
    )
    return Evidence(agrees and rising == 0, sentence, numbers)


def refutes_statement(scores: Tensor) -> str | None:
    """Final prices at which no choice of k best experts by every token is balanced.

    Scores are whole numbers, so all sums are exact.
    """
    for k, share in equal_shares(*scores.shape):
        prices = turns(scores, k, PATIENCE)[-1]
        bound, best = balanced_dual(scores, prices, k), exactly_balanced(scores, k)
        if bound > best:
            return (
                f"k={k}, {share} tokens an expert: the turns stop at prices {prices.tolist()}, "
                f"where what tokens like best adds up to {bound:g}; equal loads give {best:g}."
            )
    return None


def refutes_verdict(scores: Tensor) -> str | None:
    """Turns that raise the dual of the problem with <=, or fall below its optimum."""
    T, E = scores.shape
    for k in range(1, E + 1):
        most = math.ceil(T * k / E)
        best = best_by_trial(scores, range(k + 1), range(most + 1)) or 0.0
        last = math.inf
        for prices in turns(scores, k, PATIENCE):
            bound = at_most_dual(scores, prices, k, most)
            if not best <= bound <= last:
                return f"k={k}: the bound goes from {last:g} to {bound:g}, the optimum is {best:g}."
            last = bound
    return None


O1 = Claim(
    id="O1",
    title="BIP balances optimally",
    statement="BIP-based balancing solves the problem of k experts a token and equal loads.",
    formula=(
        "q from Algorithm 1, x_i = top-k of s_i - q: x maximises <s, x> subject to "
        "sum_j x_ij = k, sum_i x_ij = T k / E"
    ),
    conditions="",
    source="Sun 2025, arXiv 2502.15451, Algorithm 1 (paraphrased)",
    verdict=Verdict.FAILS,
    reason=(
        "Both halves of a turn keep prices at 0 or above, so what they minimise, each exactly over "
        "its own half, is the dual of the problem with <= (at most k experts, at most T k / E "
        "tokens). That problem can be worth more than the one with equal loads, and then no "
        "prices q >= 0 make the top-k balanced. Nor is it always solved: the dual is not "
        "smooth, and turns over one half at a time can stop above its minimum. And the selection, "
        "a plain top-k at the prices, may exceed the capacity. What holds: from turn to turn the "
        "bound never rises, and it is never below the optimum with <=, hence never below that with "
        "equal loads where scores allow both."
    ),
    examine=examine,
    counterexample=Counterexample(
        ((100, 100, 1), (100, 100, 1), (50, 50, 1)),
        "k = 2, so each expert should take 2 of the 3 tokens. With equal loads token 3 must take "
        "expert 3 and so must another: best is 100 + 100, 100 + 1, 50 + 1 = 352. With <= token "
        "3 may take the 1 alone: 400 + 1 = 401. Turns: tokens first pay their third best (1, 1, "
        "1), which leaves (99, 99, 49) to experts 1 and 2, whose third is 49: q = (49, 49, 0), and "
        "nothing changes after that. At these prices rows are (51, 51, 1), (51, 51, 1), (1, 1, 1): "
        "bound 102 + 102 + 2 + 2 * 98 = 402, above both. q = (50, 50, 0) would prove 401; no "
        "q >= 0 proves 352. (With k = 1 the prices stay 0: bound 250, optimum 201.)",
    ),
    refutes_statement=refutes_statement,
    refutes_verdict=refutes_verdict,
)

CLAIMS: tuple[Claim, ...] = (O1,)
