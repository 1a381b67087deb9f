"""USMoE: what serving every token costs, and what budget reaches token choice's score (B5, B8).

Whether unified routing leaves tokens without expert, and what serving them costs (B5); the smallest
budgets at which unified, served unified and capacity attain token choice's score (B8).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lp_routing.certificate.certificate import certify
from lp_routing.certificate.prices import Prices
from lp_routing.certificate.violations import ROUNDING
from lp_routing.claims.claim import Claim, ClaimInput, Counterexample, Evidence, Number, Verdict
from lp_routing.claims.helpers import by_layer, rounding, share_below, span
from lp_routing.claims.usmoe.rules import CODE, PAPER, cut_of, pooled_choice, worth
from lp_routing.errors import InputError
from lp_routing.problem.bounds import at_least, at_most, exactly
from lp_routing.problem.named import capacity as capacity_problem
from lp_routing.problem.named import served_unified
from lp_routing.problem.problem import RoutingProblem
from lp_routing.routers.selection import largest
from lp_routing.routers.token_choice import TopK
from lp_routing.scores import softmax, unified
from lp_routing.solvers import MinCostFlow
from lp_routing.solvers.solve import Status, solve
from lp_routing.validation import Scores, as_float, as_int, as_scores, refuse_nan_and_inf


@dataclass(frozen=True)
class Attained:
    """The smallest budget of a mechanism that holds token choice's value.

    Attributes:
        budget: in pairs; for capacity in slots, E C.
        makespan: the largest load of an expert there, in tokens.
    """

    budget: int
    makespan: int


@dataclass(frozen=True)
class CapacityPoint:
    """The optimum of `capacity` with at most k experts a token and C tokens an expert.

    Attributes:
        capacity: C.
        slots: E C, its budget: all slots, used or not.
        value: of the best whole assignment.
        bound: what its prices prove; no assignment is worth more.
    """

    capacity: int
    slots: int
    value: float
    bound: float


@dataclass(frozen=True, eq=False)
class InferenceCost:
    """Value against budget of three mechanisms, and where each reaches token choice's value.

    Attributes:
        pairs: k T, token choice's budget.
        value: token choice's.
        makespan: its largest load.
        unified: (T E + 1,), the budget LP's optimum with exactly N pairs, N = 0, 1, ...
        served: the same with one pair or more for every token; -inf for N < T.
        unified_makespan, served_makespan: int64 (T E + 1,), the largest load of an expert there.
        capacity: the optimum with capacity at some C.
        at_unified, at_served, at_capacity: where each first holds `value`.
    """

    pairs: int
    value: float
    makespan: int
    unified: Tensor
    served: Tensor
    unified_makespan: Tensor
    served_makespan: Tensor
    capacity: tuple[CapacityPoint, ...]
    at_unified: Attained
    at_served: Attained
    at_capacity: Attained


def inference_cost(
    scores: Scores, k: int, *, factors: Sequence[float] = (1.0, 1.25)
) -> InferenceCost:
    """The curves of value against budget, and the smallest budgets that hold token choice's value.

    Unified and served unified are prefix sums of sorted scores, exact up to rounding. Capacity is
    solved at C = ceil(factor k T / E), the prices of one point starting the next. Under at most k
    experts a token nothing is worth more than row top-k, and only another top-k of equal scores is
    worth as much: so capacity attains token choice's value exactly at the smallest C that some such
    top-k fits in. Where every token's k-th score is above 0 and above its next, that is token
    choice's largest load; else smaller C are tried by bisection, up to rounding, down to C = 1.

    Args:
        scores: (T, E), finite and >= 0, such as a softmax.
        k: experts per token.
        factors: where to look at capacity, each > 0.

    Raises:
        InputError: scores that are negative or infinite, k > E, a factor that is not positive.
    """
    scores = as_scores(scores).double()
    T, E = scores.shape
    k = as_int(k, "k", 1, E, "E, the number of experts")
    for factor in factors:
        as_float(factor, "factors", "numbers above 0", lambda given: 0 < given < math.inf)
    refuse_nan_and_inf(scores, "inference_cost: scores")
    if bool((scores < 0).any()):
        raise InputError(
            f"inference_cost: expected scores >= 0 for every pair, such as a softmax, got "
            f"{float(scores.min()):g}; a budget is worth filling only where pairs are worth having."
        )
    chosen = TopK(k, score="logits").select(scores)
    value, makespan = float(scores[chosen].sum()), int(chosen.sum(0).max())
    needed = value * (1 - ROUNDING)
    pooled, served = _curve(scores, T * E), _curve(scores, T)
    free, fair = pooled.value, served.value.clone()
    fair[:T] = float("-inf")
    first = [int((curve >= needed).int().argmax()) for curve in (free, fair)]
    level = _smallest_capacity(scores, k, needed, makespan)
    return InferenceCost(
        pairs=k * T,
        value=value,
        makespan=makespan,
        unified=free,
        served=fair,
        unified_makespan=pooled.makespan,
        served_makespan=served.makespan,
        capacity=_points(scores, k, factors),
        at_unified=Attained(first[0], int(pooled.makespan[first[0]])),
        at_served=Attained(first[1], int(served.makespan[first[1]])),
        at_capacity=Attained(E * level, level),
    )


class _Curve(NamedTuple):
    """Sums of the first 0, 1, 2, ... pairs in some order, and the largest load there, (n + 1,)."""

    value: Tensor
    makespan: Tensor


def _curve(scores: Tensor, first: int) -> _Curve:
    """Sums over pairs by descending score; with `first` = T every token's best pair comes first.

    Args:
        scores: (T, E).
        first: how many pairs come before all others, T E or T.
    """
    T, E = scores.shape
    urgent = largest(scores, 1) if first == T else torch.ones_like(scores, dtype=torch.bool)
    order = scores.flatten().sort(descending=True, stable=True).indices
    order = order[(~urgent.flatten()[order]).long().sort(stable=True).indices]
    value, load = scores.flatten()[order].cumsum(0), _loads_so_far(order % E, E)
    pad = torch.nn.functional.pad
    return _Curve(pad(value, (1, 0)), pad(load.cummax(0).values, (1, 0)))


def _loads_so_far(expert: Tensor, E: int) -> Tensor:
    """For each pair (n,), how many pairs of its expert were taken up to and including it.

    Args:
        expert: int64 (n,), whose pair it is, in the order in which they are taken.
        E: experts.
    """
    by_expert = expert.argsort(stable=True)
    loads = expert.bincount(minlength=E)
    before = (loads.cumsum(0) - loads)[expert[by_expert]]
    taken = torch.empty_like(expert)
    taken[by_expert] = torch.arange(1, len(expert) + 1, device=expert.device) - before
    return taken


def _at_capacity(
    scores: Tensor, k: int, capacity: int, start: Prices | None
) -> tuple[CapacityPoint, Prices | None]:
    solution = solve(capacity_problem(scores, k, capacity), MinCostFlow(start=start))
    slots = capacity * scores.shape[1]
    point = CapacityPoint(capacity, slots, float(solution.value), float(solution.bound))
    return point, solution.prices


def _points(scores: Tensor, k: int, factors: Sequence[float]) -> tuple[CapacityPoint, ...]:
    T, E = scores.shape
    points, prices = [], None
    for capacity in sorted({min(T, math.ceil(factor * k * T / E)) for factor in factors}):
        point, prices = _at_capacity(scores, k, capacity, prices)
        points.append(point)
    return tuple(points)


def _smallest_capacity(scores: Tensor, k: int, needed: float, makespan: int) -> int:
    """The smallest C at which capacity holds what is needed."""
    ordered = scores.sort(dim=1, descending=True).values
    # a pair of score 0 may be left out as well
    following = torch.nn.functional.pad(ordered, (0, 1))[:, k, None]
    low = max(0, int((scores > following).sum(0).max()) - 1)  # every top-k has these pairs
    high, prices = makespan, None
    while high - low > 1:
        middle = (low + high) // 2
        point, prices = _at_capacity(scores, k, middle, prices)
        low, high = (low, middle) if point.value >= needed else (middle, high)
    return high


TOKENS = 128
"""Tokens of each layer, on which two exact solves take 0.2 s, and 0.8 s on 1,024 on the sample."""
FACTOR = 1.25
"""Capacity, relative to the mean load of an expert."""


class Layer(NamedTuple):
    """Tokens without expert; the four optima; whether all is proved and consistent."""

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
    capped = solve(RoutingProblem(scores, experts=loads, total=total))
    both = solve(
        RoutingProblem(scores, tokens=at_least(1), experts=loads, total=total),
        MinCostFlow(start=capped.prices),
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
    # the served optimum is feasible here too: take the better of the two where last digits differ
    best_capped = max(float(capped.value), capped_served)
    return Layer(int(dropped.sum()), free, served, best_capped, capped_served, agrees)


def misjudged(scores: Tensor, chosen: Tensor, total: int) -> bool:
    """Whether a token is dropped with its best score above the cut, or kept with it below."""
    best, cut, dropped = scores.amax(-1), cut_of(scores, total), ~chosen.any(-1)
    return bool(((dropped & (best > cut)) | (~dropped & (best < cut))).any())


def examine_serving(subject: ClaimInput) -> Evidence:
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


def refutes_statement_on_serving(scores: Tensor) -> str | None:
    """A token without expert in every optimum: its best score lies below the cut."""
    T, E = scores.shape
    for k in range(1, E):
        below = scores.amax(-1) < cut_of(scores, k * T)
        dropped = below & ~pooled_choice(scores, k).any(-1)
        if bool(dropped.any()):
            return f"k={k}, N={k * T}: token {int(dropped.int().argmax())} gets no expert."
    return None


def refutes_verdict_on_serving(scores: Tensor) -> str | None:
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
    examine=examine_serving,
    counterexample=Counterexample(
        ((0.49, 0.49, 0.01, 0.01), (0.25, 0.25, 0.25, 0.25)),
        "K = 1, so N = 2: the two largest scores are .49 and .49, both of token 1. Token 2 gets no "
        "expert. With a row >= 1 for each token: .49 + .25 = .74 in place of .98.",
    ),
    refutes_statement=refutes_statement_on_serving,
    refutes_verdict=refutes_verdict_on_serving,
    forbidden_too=True,
)


CLAIMED = 0.86
"""Share of token choice's pairs that suffices, as the paper says."""
FACTORS = (1.25,)
"""Capacities that the check solves, relative to the mean load: one solve a layer for each."""


def in_order(cost: InferenceCost) -> bool:
    """Whether the budgets are the smallest, and the curves keep what is provable."""
    slack = rounding(cost.value)
    smallest = all(
        curve[at.budget] >= cost.value - slack
        and bool((curve[: at.budget] < cost.value * (1 - ROUNDING)).all())
        for curve, at in ((cost.unified, cost.at_unified), (cost.served, cost.at_served))
    )
    capped = all(_point_in_order(point, cost, slack) for point in cost.capacity)
    return smallest and capped and cost.at_unified.budget <= cost.at_served.budget <= cost.pairs


def _point_in_order(point: CapacityPoint, cost: InferenceCost, slack: float) -> bool:
    """Proved, never above token choice or as many pairs of the pool, level from its C on."""
    most = min(cost.value, float(cost.unified[min(point.slots, cost.pairs)]))
    level = point.capacity >= cost.at_capacity.makespan
    proved = abs(point.bound - point.value) <= slack
    in_bounds = point.value <= most + slack
    return proved and in_bounds and (not level or point.value >= cost.value - slack)


def examine_cost(subject: ClaimInput) -> Evidence:
    """Layer by layer: the smallest budgets, their makespans, and the curves by tenths."""
    costs = [
        inference_cost(softmax(logits), subject.k, factors=FACTORS) for logits in subject.logits
    ]
    pairs = costs[0].pairs
    few = int(CLAIMED * pairs)

    def shares(which: str) -> list[float]:
        return [100 * getattr(cost, f"at_{which}").budget / pairs for cost in costs]

    held = [_percent(cost.unified[few], cost) for cost in costs]
    capped = [_percent(cost.capacity[0].value, cost) for cost in costs]
    sentence = (
        f"Token choice's softmax score with {pairs} pairs (fullest expert "
        f"{span([c.makespan for c in costs])} tokens) is reached by unified with "
        f"{span(shares('unified'))} % of them (fullest expert "
        f"{span([c.at_unified.makespan for c in costs])}), by served unified with "
        f"{span(shares('served'))} % ({span([c.at_served.makespan for c in costs])}), by capacity "
        f"from {span([c.at_capacity.makespan for c in costs])} slots an expert on, room for "
        f"{span(shares('capacity'))} % of the pairs. With {few} pairs, 14 % fewer, "
        f"unified holds {span(held)} % of it; capacity at {FACTORS[0]:g} times the mean load holds "
        f"{span(capped)} %."
    )
    numbers: dict[str, Number] = {"pairs of token choice": pairs}
    for which in ("unified", "served", "capacity"):
        at = [getattr(cost, f"at_{which}") for cost in costs]
        unit = "slots" if which == "capacity" else "pairs"
        numbers |= by_layer(f"smallest budget, {which}, {unit}", [each.budget for each in at])
        numbers |= by_layer(f"makespan, {which}", [each.makespan for each in at])
    numbers |= by_layer("makespan, token choice", [cost.makespan for cost in costs])
    numbers |= by_layer("% of value held by unified at 86 % of the pairs", held)
    numbers |= by_layer(f"% of value, capacity {costs[0].capacity[0].capacity}", capped)
    return Evidence(all(in_order(cost) for cost in costs), sentence, numbers | _tenths(costs))


def _percent(value: Tensor | float, cost: InferenceCost) -> float:
    """Of token choice's value, which is more than 0 unless all scores are 0."""
    return 100 * float(value) / cost.value if cost.value else 100.0


def _tenths(costs: Sequence[InferenceCost]) -> dict[str, Number]:
    """Both curves, by value and makespan, at every tenth of token choice's pairs."""
    numbers: dict[str, Number] = {}
    for tenths in range(1, 11):
        N = costs[0].pairs * tenths // 10
        at = f"{10 * tenths} % of the pairs"
        for which in ("unified", "served"):
            held = [_percent(getattr(cost, which)[N], cost) for cost in costs]
            fullest = [int(getattr(cost, f"{which}_makespan")[N]) for cost in costs]
            if math.isfinite(held[0]):
                numbers |= by_layer(f"% of value, {which}, {at}", held)
                numbers |= by_layer(f"makespan, {which}, {at}", fullest)
    return numbers


def refutes_verdict_on_cost(scores: Tensor) -> str | None:
    """A budget or a capacity that is not the smallest; for scores >= 0."""
    for k in range(1, scores.shape[1] + 1):
        if not in_order(inference_cost(scores, k, factors=(0.5, 1.0))):
            return f"k={k}: a budget is not the smallest that holds token choice's value."
    return None


B8 = Claim(
    id="B8",
    title="14 % less inference cost",
    statement="Unified routing reaches token choice's quality with 14 % less inference cost.",
    formula="expert FLOPs ~ N; smallest N with value(N) >= sum of row top-K, N <= 0.86 T K",
    conditions="",
    source=f"{PAPER}, abstract of v2: inference costs reduced by up to 14 %",
    verdict=Verdict.EMPIRICAL,
    reason=(
        "That 14 % fewer pairs cost 14 % fewer expert FLOPs is an identity. Whether the score held "
        "is the same depends on the logits: T K pairs always suffice, since token choice is "
        "feasible there (B2). Score is not quality, which logits do not show; and a step lasts as "
        "long as its fullest expert, so the makespan stands beside every budget. With capacity "
        "(slots E C, at most k a token) nothing is worth more than row top-k, so it draws level "
        "only when C holds the row top-k of all tokens: at token choice's largest load, or below "
        "where ties leave another row top-k."
    ),
    examine=examine_cost,
    refutes_verdict=refutes_verdict_on_cost,
    forbidden_too=True,
)
