"""USMoE: whether the linear program of routing has whole optima (B3)."""

from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from lp_routing.certificate.certificate import certify
from lp_routing.claims.claim import Claim, ClaimInput, Counterexample, Evidence, Verdict
from lp_routing.claims.helpers import SLACK, by_layer, span
from lp_routing.claims.usmoe.rules import PAPER
from lp_routing.extensions.group_limited import best_in_groups, relaxed_in_groups
from lp_routing.problem.bounds import at_most
from lp_routing.problem.constraints import groups_by
from lp_routing.problem.problem import RoutingProblem
from lp_routing.scores import unified
from lp_routing.solvers import HiGHS
from lp_routing.solvers.solve import solve

TOKENS = 64
"""Tokens of each layer that HiGHS solves: the check takes 0.13 s, 0.43 s with 256 on the sample."""
CERTAIN = 1e-6
"""Sums of scores: LP values of small whole scores are fractions with small denominators, and so
farther apart than this where they differ.
"""


def bounded(scores: Tensor, k: int, capacity: int, total: int) -> RoutingProblem:
    """At most k experts a token, at most C tokens an expert, at most N pairs."""
    return RoutingProblem(
        scores, tokens=at_most(k), experts=at_most(capacity), total=at_most(total)
    )


def nested(scores: Tensor, k: int) -> RoutingProblem:
    """Bounds on rows, columns and the total, and on two sequences and two devices, all binding."""
    T, E = scores.shape
    capacity, total = max(1, T * k // E), max(1, 7 * T * k // 8)
    devices = at_most(max(1, 5 * T * k // 8))
    return RoutingProblem(
        scores,
        tokens=at_most(k),
        experts=at_most(capacity),
        total=at_most(total),
        token_groups=groups_by([2 * i // T for i in range(T)], at_most(max(1, T * k // 2))),
        expert_groups=groups_by([2 * j // E for j in range(E)], devices),
    )


class Layer(NamedTuple):
    """Gap of a whole choice to the LP, and by what share the LP is above it where it breaks.

    `crossing` counts tokens; `one_group` is None where the experts make no two groups of three.
    """

    gap: float
    half: float
    crossing: int
    one_group: float | None
    agrees: bool


def measured(scores: Tensor, k: int) -> Layer | str:
    """Some tokens' LP by HiGHS with whole and nested bounds, and with others; or why not."""
    T, E = scores.shape
    solution = solve(nested(scores, k), HiGHS())
    if solution.assignment is None or not solution.prices.given:
        return f"HiGHS found no optimum: {solution.explanation}"
    certificate = certify(solution.problem, solution.assignment.x > 0.5, solution.prices)
    half = of_half_a_pair(scores, max(1, T * k // 2))
    agrees, crossing, one_group = certificate.proves_optimal(SLACK) and half >= 0, 0, None
    if E >= 3:
        odd = _crossing(scores)
        crossing = int((odd.lp > odd.whole).sum())
        agrees &= _as_solved(scores[0], odd.lp[0], odd.whole[0])
    if E >= 6 and E % 2 == 0:
        best, lp = best_in_groups(scores, 2, 2, 1).value, relaxed_in_groups(scores, 2, 2, 1)
        agrees &= lp >= best - SLACK * (1 + best)
        share = (lp - best) / best
        one_group = share if share > SLACK else 0.0
    return Layer(abs(certificate.relative_gap), half, crossing, one_group, bool(agrees))


def examine(subject: ClaimInput) -> Evidence:
    """A whole choice certified at the LP's value; the LP above whole choices where it breaks."""
    L, T, _ = subject.shape
    tokens, layers = min(T, TOKENS), list[Layer]()
    for logits in subject.logits:
        layer = measured(unified(logits[:tokens]), subject.k)
        if isinstance(layer, str):
            return Evidence(False, layer)
        layers.append(layer)
    above = [100 * layer.one_group for layer in layers if layer.one_group is not None]
    halves, crossing = [100 * layer.half for layer in layers], sum(x.crossing for x in layers)
    limit = "the experts make no two groups of three or more"
    if above:
        broken = sum(share > 0 for share in above)
        limit = (
            f"with K=2 of one of two groups the LP lies {span(above)} % above whole choices, so "
            f"it breaks here on {broken} of {L} layers"
        )
    sentence = (
        f"Rows, columns, total, two sequences and two devices with whole bounds, the first "
        f"{tokens} tokens: a whole choice reaches the LP's value on all layers (largest relative "
        f"gap {max(x.gap for x in layers):.1g}). It breaks with half a pair more in the budget, by "
        f"{span(halves)} % of the value, and with groups that cross (one of each two of a token's "
        f"three best experts) on {crossing} of {L * tokens} tokens; {limit}."
    )
    numbers = by_layer("relative gap, whole choice to LP", [x.gap for x in layers])
    numbers |= by_layer("% of LP above whole, half a pair more", halves)
    numbers |= {"tokens on which crossing groups break it": crossing}
    numbers |= by_layer("% of LP above whole, one group of two", above)
    return Evidence(all(x.agrees for x in layers), sentence, numbers)


def of_half_a_pair(scores: Tensor, total: int) -> float:
    """By what share of it the LP of N + 1/2 pairs is worth more than the N best; by HiGHS."""
    whole = float(scores.flatten().topk(total).values.sum())
    lp = float(solve(RoutingProblem(scores, total=at_most(total + 0.5)), HiGHS()).bound)
    share = (lp - whole) / whole
    return share if abs(share) > SLACK else 0.0


class Crossing(NamedTuple):
    """What a token's three best experts are worth, one at most of each two of them; (T,)."""

    lp: Tensor
    whole: Tensor


def _crossing(scores: Tensor) -> Crossing:
    """Whole, only the best; the LP may take a half of each of the three."""
    best = scores.topk(3).values
    return Crossing(torch.maximum(best[:, 0], best.sum(1) / 2), best[:, 0])


def _as_solved(row: Tensor, lp: Tensor, whole: Tensor) -> bool:
    """Whether HiGHS finds the same for the three best of a row (E,)."""
    pairs = [([i, j], at_most(1)) for i, j in combinations(range(3), 2)]
    problem = RoutingProblem(row.topk(3).values[None], expert_groups=pairs)
    relaxed, searched = solve(problem, HiGHS()), solve(problem, HiGHS(), integral=True)
    close = [
        abs(float(found.value) - float(expected)) <= CERTAIN
        for found, expected in ((relaxed, lp), (searched, whole))
    ]
    return all(close)


def refutes_statement(scores: Tensor) -> str | None:
    """K = 2 experts of at most one of two halves: a token whose LP is worth more than any choice.

    For whole scores.
    """
    E = scores.shape[1]
    if E % 2 or E < 4:
        return None
    rows = scores.tolist()
    whole = sum(max(_two_best(row[: E // 2]), _two_best(row[E // 2 :])) for row in rows)
    lp = relaxed_in_groups(scores, 2, 2, 1)
    if lp > whole + CERTAIN:
        return f"K=2 of one of two groups: the LP is worth {lp:g}, whole choices {whole:g}."
    return None


def _two_best(row: list[float]) -> float:
    return sum(sorted(row)[-2:])


def refutes_verdict(scores: Tensor) -> str | None:
    """Whole bounds on rows, columns and the total whose LP is worth more than any whole choice."""
    T, E = scores.shape
    for k, capacity, total in ((1, 1, T), (min(2, E), (T + 1) // 2, T), (E, max(1, T - 1), T + 1)):
        best = best_whole(scores, k, capacity, total)
        lp = float(solve(bounded(scores, k, capacity, total), HiGHS()).bound)
        if abs(lp - best) > CERTAIN:
            return f"k={k}, C={capacity}, N={total}: LP {lp:g}, whole choices {best:g}."
    return None


def best_whole(scores: Tensor, k: int, capacity: int, total: int) -> float:
    """The optimum of `bounded` over whole choices, by trying all of them token after token."""
    E = scores.shape[1]
    choices = [some for n in range(min(k, E) + 1) for some in combinations(range(E), n)]
    reached: dict[tuple[int, ...], float] = {(0,) * E: 0.0}
    for row in scores.tolist():
        after: dict[tuple[int, ...], float] = {}
        for load, value in reached.items():
            for some in choices:
                new = tuple(n + (j in some) for j, n in enumerate(load))
                if max(new) <= capacity and sum(new) <= total:
                    gained = value + sum(row[j] for j in some)
                    after[new] = max(gained, after.get(new, gained))
        reached = after
    return max(reached.values())


B3 = Claim(
    id="B3",
    title="the LP relaxation is whole",
    statement="Relaxing x in {0, 1} to 0 <= x <= 1 leaves the optimum of routing as it is.",
    formula="max { <s, x> : bounds, x in {0, 1} } = max { <s, x> : bounds, 0 <= x <= 1 }",
    conditions=(
        "Bounds on tokens, experts, the total, and groups of tokens and groups of experts that are "
        "nested, all with whole numbers."
    ),
    source=f"{PAPER}, the linear program of a sparse mixture",
    verdict=Verdict.CONDITIONAL,
    reason=(
        "Sets of pairs made of rows, and of groups of rows, are nested; so are those of columns; "
        "the total belongs to either. Two nested families are a network flow, whose matrix is "
        "totally unimodular: with whole bounds every vertex is whole. It fails with a budget of "
        "2.5 pairs (the LP takes the half), with experts of unequal cost (a knapsack: claim O10b), "
        'with groups that cross, and with "at most M groups a token", which is no bound on sums '
        "of x: the LP opens two groups by half each."
    ),
    examine=examine,
    counterexample=Counterexample(
        ((10, 7, 7, 12, 2, 0),),
        "K = 2 experts of at most M = 1 group; group A = (10, 7, 7), group B = (12, 2, 0). Whole: "
        "10 + 7 = 17 in A, 12 + 2 = 14 in B. The LP opens each group by half and takes half of "
        "10, 7, 7 and of 12, two experts in all: 5 + 3.5 + 3.5 + 6 = 18.",
    ),
    refutes_statement=refutes_statement,
    refutes_verdict=refutes_verdict,
    forbidden_too=True,
)
