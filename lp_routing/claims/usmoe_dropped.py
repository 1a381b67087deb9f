"""USMoE: whether unified routing leaves tokens without expert, and what serving costs (B5)."""

import math
from typing import NamedTuple

from torch import Tensor

from lp_routing.certificate.certificate import certify
from lp_routing.certificate.prices import Prices
from lp_routing.claims.claim import Claim, Counterexample, Evidence, Subject, Verdict
from lp_routing.claims.layers import by_layer, rounding, share_below, span
from lp_routing.claims.usmoe_rules import CODE, PAPER, cut_of, pooled_choice, worth
from lp_routing.pricing import Pricing
from lp_routing.problem.bounds import at_least, at_most, exactly
from lp_routing.problem.named import served_unified
from lp_routing.problem.problem import RoutingProblem
from lp_routing.routers.selection import largest
from lp_routing.scores import unified
from lp_routing.solvers.solution import Status
from lp_routing.solvers.solve import solve

TOKENS = 128
"""Two exact solves a layer."""
FACTOR = 1.25
"""Capacity over the mean load."""


class Layer(NamedTuple):
    """Tokens without expert; the four optima; whether all is in order and proved."""

    dropped: int
    free: float
    served: float
    capped: float
    capped_served: float
    agrees: bool


def served_price(scores: Tensor, total: int) -> float:
    """The price of a pair by which the served choice is proved: the (N - T)-th score of the rest.

    Where N = T that is a price at which no second pair pays: the largest score.
    """
    rest = scores.masked_fill(largest(scores, 1), float("-inf"))
    left = total - scores.shape[0]
    return cut_of(rest, left) if left else float(scores.max())


def priced(scores: Tensor, k: int) -> Layer:
    """What it costs to serve every token, without and with capacity columns."""
    T, E = scores.shape
    N = k * T
    plain, fair = pooled_choice(scores, k), pooled_choice(scores, k, serve_all=True)
    price = Prices(total=served_price(scores, N))
    proof = certify(served_unified(scores, N), fair, price)
    dropped = ~plain.any(-1)
    loads, total = at_most(min(T, math.ceil(FACTOR * N / E))), exactly(N)
    capped = solve(RoutingProblem(scores, experts=loads, total=total), Pricing())
    both = solve(
        RoutingProblem(scores, tokens=at_least(1), experts=loads, total=total),
        Pricing(start=capped.prices),
    )
    free, served, capped_served = worth(scores, plain), worth(scores, fair), float(both.value)
    slack = rounding(free)
    in_order = (
        free >= served - slack
        and served >= capped_served - slack
        and float(capped.bound) >= capped_served - slack
    )
    solved = capped.status is both.status is Status.OPTIMAL
    agrees = in_order and solved and proof.proves_optimal() and not misjudged(scores, plain, N)
    # what serves all is within the capacity, too: the better of the two where last digits differ
    best_capped = max(float(capped.value), capped_served)
    return Layer(int(dropped.sum()), free, served, best_capped, capped_served, agrees)


def misjudged(scores: Tensor, chosen: Tensor, total: int) -> bool:
    """Whether a token is dropped with its best score above the cut, or kept with it below."""
    best, cut, dropped = scores.amax(-1), cut_of(scores, total), ~chosen.any(-1)
    return bool(((dropped & (best > cut)) | (~dropped & (best < cut))).any())


def examine(subject: Subject) -> Evidence:
    """Tokens that unified drops, and the price of serving all, with and without capacity."""
    L, T, _ = subject.shape
    tokens, k = min(T, TOKENS), subject.k
    scores = unified(subject.logits)
    dropped = [int((~pooled_choice(each, k).any(-1)).sum()) for each in scores]
    layers = [priced(each[:tokens], k) for each in scores]
    free = [share_below(layer.served, layer.free) for layer in layers]
    capped = [share_below(layer.capped_served, layer.capped) for layer in layers]
    columns = [share_below(layer.capped, layer.free) for layer in layers]
    sentence = (
        f"Of {T} tokens unified with k={k} leaves {span(dropped)} without expert (breaks here on "
        f"{sum(n > 0 for n in dropped)} of {L} layers). In a pool of the first {tokens}, where it "
        f"leaves {span([layer.dropped for layer in layers])}, serving every token costs "
        f"{span(free)} % of its unified score; capacity {FACTOR:g} costs {span(columns)} %, and "
        f"serving all within that capacity {span(capped)} % more."
    )
    numbers = (
        by_layer("tokens dropped", dropped)
        | by_layer(f"tokens dropped, first {tokens}", [layer.dropped for layer in layers])
        | by_layer("value, budget alone", [layer.free for layer in layers])
        | by_layer("value, every token served", [layer.served for layer in layers])
        | by_layer("value, capacity", [layer.capped for layer in layers])
        | by_layer("value, capacity and every token served", [x.capped_served for x in layers])
    )
    return Evidence(all(layer.agrees for layer in layers), sentence, numbers)


def breaks(scores: Tensor) -> str | None:
    """A token without expert in every optimum: its best score lies below the cut."""
    T, E = scores.shape
    for k in range(1, E):
        below = scores.amax(-1) < cut_of(scores, k * T)
        dropped = below & ~pooled_choice(scores, k).any(-1)
        if bool(dropped.any()):
            return f"k={k}, N={k * T}: token {int(dropped.int().argmax())} gets no expert."
    return None


def betrays(scores: Tensor) -> str | None:
    """A token dropped with its best score above the cut, or a served choice that is not best."""
    T, E = scores.shape
    for k in range(1, E + 1):
        N = k * T
        kept, fair = pooled_choice(scores, k), pooled_choice(scores, k, serve_all=True)
        if misjudged(scores, kept, N):
            return f"k={k}: a token is not dropped as its best score and the cut say."
        if not bool(fair.any(-1).all()) or int(fair.sum()) != N:
            return f"k={k}: the served choice leaves a token out, or misses N={N}."
        most, value = best_served(scores, N), worth(scores, fair)
        if value != most:
            return f"k={k}: the served choice is worth {value:g}, the best {most:g}."
        if worth(scores, kept) < most:
            return f"k={k}: serving all is worth more than not serving all."
    return None


def best_served(scores: Tensor, total: int) -> float:
    """The best N pairs with one or more for every token, by how many each token takes."""
    reached = {0: 0.0}
    for row in scores.tolist():
        ordered, after = sorted(row, reverse=True), dict[int, float]()
        for taken, value in reached.items():
            for n in range(1, len(row) + 1):
                gained = value + sum(ordered[:n])
                after[taken + n] = max(gained, after.get(taken + n, gained))
        reached = after
    return reached[total]


B5 = Claim(
    id="B5",
    title="unified drops no token",
    statement="The unified mechanism drops no token, and spends nothing on noise.",
    formula="x = top-N of s, N = T K: sum_j x_ij >= 1 for every token i",
    conditions="",
    source=f"{PAPER}, introduction: what token choice and expert choice miss; {CODE}",
    verdict=Verdict.FAILS,
    reason=(
        "The budget LP has no row for a token: one whose best score lies below the N-th largest of "
        "all gets nothing in every optimum, however large that score is beside its others. A row "
        ">= 1 for each token mends it; the optimum is then each token's best pair and the "
        "N - T best of the rest, and the difference in value is the price of serving all."
    ),
    examine=examine,
    counterexample=Counterexample(
        ((0.49, 0.49, 0.01, 0.01), (0.25, 0.25, 0.25, 0.25)),
        "K = 1, so N = 2: the two largest scores are .49 and .49, both of token 1. Token 2 gets no "
        "expert. With a row >= 1 for each token: .49 + .25 = .74 in place of .98.",
    ),
    breaks=breaks,
    betrays=betrays,
    forbidden_too=True,
)
