"""MoE++: experts of unequal cost as a row of the LP, and whether its optima stay whole (O10b)."""

from fractions import Fraction
from itertools import combinations

import torch
from torch import Tensor

from lp_routing.claims.claim import Claim, ClaimInput, Counterexample, Evidence, Number, Verdict
from lp_routing.claims.helpers import SLACK
from lp_routing.extensions.knapsack import (
    BudgetedChoice,
    searched_within_budget,
    within_budget,
)
from lp_routing.routers.token_choice import ZeroComputation
from lp_routing.scores import softmax

SEARCHED = 16
"""Tokens of the first layer that HiGHS solves, too: 0.08 s, and 0.15 s with 64 on the sample."""
OF_A_SEARCH = 1e-6
"""Relative: HiGHS keeps bounds and ends a search within tolerances of about this size."""


def examine(subject: ClaimInput) -> Evidence:
    """Half of row top-k's cost as the budget: costs 0 and 1 as in MoE++, then 0, 1 and 2."""
    L, T, E = subject.shape
    if E < 2:
        return Evidence(None, "One expert leaves no choice between costs.")
    k = subject.k
    free = min(max(k, E // 4), E - 1)
    if free < k:
        return Evidence(None, f"k={k} of E={E} leaves no room for as many free experts.")
    two = ZeroComputation(k, free).costs(E)
    three = two + (torch.arange(E) < (E - free) // 2).double()
    against: list[str] = []
    value, bound, gaps, cost = 0.0, 0.0, [0.0, 0.0], 0.0
    for layer in range(L):
        scores = softmax(subject.logits[layer])
        for which, costs in enumerate((two, three)):
            budget = _half(scores, k, costs)
            found = within_budget(scores, k, costs, budget)
            against += _out_of_order(found, kinds=which + 2, rounding=SLACK * T)
            gaps[which] = max(gaps[which], found.relative_gap)
            if which == 0:
                value, bound, cost = value + found.value, bound + found.bound, cost + found.cost
        if layer == 0:
            against += _otherwise_searched(scores[:SEARCHED], k, three)
    sentence = (
        f"With {free} of {E} experts free and half of token choice's cost ({cost:.0f} pairs paid), "
        f"whole choices keep {value:.2f} and the LP {bound:.2f}: relative gap {gaps[0]:.1g} at the "
        f"most; with costs 0, 1 and 2 it is {gaps[1]:.1g}."
    )
    if against:
        sentence += f" Against it: {'; '.join(against)}."
    numbers: dict[str, Number] = {
        "free experts": free,
        "value, costs 0 and 1": value,
        "LP, costs 0 and 1": bound,
        "largest relative gap, costs 0 and 1": gaps[0],
        "largest relative gap, costs 0, 1 and 2": gaps[1],
    }
    return Evidence(not against, sentence, numbers)


def _out_of_order(found: BudgetedChoice, *, kinds: int, rounding: float) -> list[str]:
    """Budget exceeded, or a gap larger than one exchange, or any gap with two costs only."""
    against, room = [], 0.0 if kinds == 2 else 1.0
    if found.cost > found.budget * (1 + SLACK):
        against.append(f"a choice costs {found.cost:g}, beyond the budget of {found.budget:g}")
    if not -rounding <= found.gap <= room + rounding:
        against.append(f"with {kinds} costs the gap is {found.gap:g}, beyond {room:g}")
    return against


def _half(scores: Tensor, k: int, costs: Tensor) -> float:
    """Half of what row top-k costs, a whole number."""
    spent = costs.to(scores.device)[scores.topk(k).indices].sum()
    return float(spent // 2)


def _otherwise_searched(scores: Tensor, k: int, costs: Tensor) -> list[str]:
    """Where HiGHS finds the LP's value off the bound, or a best choice below ours."""
    budget = _half(scores, k, costs)
    ours = within_budget(scores, k, costs, budget)
    lp = searched_within_budget(scores, k, costs, budget, integral=False)
    best = searched_within_budget(scores, k, costs, budget)
    slack, against = OF_A_SEARCH * max(abs(lp.value), 1.0), []
    if abs(ours.bound - lp.value) > slack:
        against.append(f"the bound is {ours.bound:.9g}, HiGHS's LP worth {lp.value:.9g}")
    if ours.value > best.value + slack:
        against.append(f"a choice is worth {ours.value:.9g}, HiGHS's best {best.value:.9g}")
    return against


def refutes_statement(scores: Tensor) -> str | None:
    """Costs 0, 1, 2, 0, ... and k = 1: a budget for which the LP is worth more than whole x."""
    T, E = scores.shape
    costs = [j % 3 for j in range(E)]
    rows = scores.tolist()
    for budget in range(T * max(costs)):
        best, lp = _whole(rows, 1, costs, budget), _lp(rows, 1, costs, budget)
        if best is not None and lp > best:
            return f"Budget {budget}: the LP is worth {lp}, whole choices {best:g}."
    return None


def refutes_verdict(scores: Tensor) -> str | None:
    """Costs of two values with a gap, or bounds and values out of order with three."""
    T, E = scores.shape
    rows = scores.tolist()
    for kinds in (2, 3):
        costs = [j % kinds for j in range(E)]
        for k, budget in ((1, T // 2), (1, T), (min(2, E), T + 1)):
            best, lp = _whole(rows, k, costs, budget), _lp(rows, k, costs, budget)
            if best is None:
                continue
            ours = within_budget(scores, k, costs, budget)
            where = f"k={k}, costs {costs}, budget {budget}"
            if kinds == 2 and not best == lp == ours.value:
                return f"{where}: the LP is worth {lp}, whole x {best:g}, ours {ours.value:g}."
            if not ours.value <= best <= lp:
                return f"{where}: {ours.value:g} <= {best:g} <= {lp} is broken."
            if abs(ours.bound - lp) > SLACK * (1 + abs(lp)):
                return f"{where}: the bound is {ours.bound:g}, the LP worth {lp}."
    return None


def _whole(rows: list[list[float]], k: int, costs: list[int], budget: int) -> float | None:
    """The best whole choice, by the most for each cost, token by token; None without any."""
    most = {0: 0.0}
    for row in rows:
        after: dict[int, float] = {}
        for spent, value in most.items():
            for some in combinations(range(len(row)), k):
                cost = spent + sum(costs[j] for j in some)
                worth = value + sum(row[j] for j in some)
                if cost <= budget and worth > after.get(cost, float("-inf")):
                    after[cost] = worth
        most = after
    return max(most.values(), default=None)


def _lp(rows: list[list[float]], k: int, costs: list[int], budget: int) -> Fraction:
    """The LP's value without rounding: the least bound over the prices where choices change."""
    exact = [[Fraction(s) for s in row] for row in rows]
    crossing = {
        (row[a] - row[b]) / (costs[a] - costs[b])
        for row in exact
        for a, b in combinations(range(len(costs)), 2)
        if costs[a] != costs[b]
    }

    def bound(price: Fraction) -> Fraction:
        reduced = ([s - price * c for s, c in zip(row, costs, strict=True)] for row in exact)
        return price * budget + sum(sum(sorted(row)[-k:]) for row in reduced)

    return min(bound(price) for price in {p for p in crossing if p > 0} | {Fraction(0)})


O10B = Claim(
    id="O10b",
    title="a budget of cost keeps the LP whole",
    statement=(
        "With experts of unequal cost, such as MoE++'s zero-computation experts, the best choice "
        "under a budget of cost is a linear program with whole optima."
    ),
    formula=(
        "max sum s_ij x_ij, sum_j x_ij = k, sum_ij c_j x_ij <= B has one value for x in [0, 1] "
        "and for x in {0, 1}"
    ),
    conditions="costs take two values, as 0 and 1 in MoE++, and B is a cost that can occur",
    source="MoE++, Jin et al. 2024, arXiv 2410.07348, zero-computation experts (the row is ours)",
    verdict=Verdict.CONDITIONAL,
    reason=(
        "With two costs the row counts the dear pairs: token rows and one more set of pairs are "
        "two nested families, a network flow. With three costs it is a knapsack, and an LP may "
        "split what fits only in part. One price gives the LP's value, and by exchanges at that "
        "price a whole choice that loses at most one of them: next to nothing on many tokens."
    ),
    examine=examine,
    counterexample=Counterexample(
        ((0, 0, 1),),
        "One token, k = 1, experts of cost 0, 1 and 2, and a budget of 1. Only the third expert is "
        "worth something, 1, and it costs 2. The LP takes half of it and half of the first: 1/2. "
        "Whole choices are worth 0.",
    ),
    refutes_statement=refutes_statement,
    refutes_verdict=refutes_verdict,
    forbidden_too=True,
)

CLAIMS: tuple[Claim, ...] = (O10B,)
