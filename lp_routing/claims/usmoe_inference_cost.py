"""USMoE: the smallest budget at which other mechanisms hold token choice's score (B8)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lp_routing.checks import Scores, as_scores, number, refuse_nan_and_inf, whole
from lp_routing.claims.claim import Claim, Evidence, Number, Subject, Verdict
from lp_routing.claims.layers import by_layer, span
from lp_routing.claims.usmoe_rules import CODE, PAPER, row_choice, worth
from lp_routing.errors import InputError
from lp_routing.named_problems import capacity as capacity_problem
from lp_routing.prices import Prices
from lp_routing.pricing import Pricing
from lp_routing.routers.selection import largest
from lp_routing.scores import softmax
from lp_routing.solve import solve
from lp_routing.solvers import HiGHS

CLAIMED = 0.86
"""The share of the pairs that is said to suffice."""
FACTORS = (1.25,)
"""Where the check looks at capacity, on the first layer; each takes an exact solve."""
TINY = 2048
"""HiGHS is the quicker one on so few pairs."""
ROUNDING = 1e-12
"""Relative; a value this close to token choice's counts as attained."""


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
        slots: E C, its budget: what is provided for, used or not.
        value: of the best whole assignment.
        bound: what its prices prove; no assignment is worth more.
    """

    capacity: int
    slots: int
    value: float
    bound: float


@dataclass(frozen=True, eq=False)
class InferenceCost:
    """Value against budget for token choice's rivals, and where they draw level.

    Attributes:
        pairs: k T, token choice's budget.
        value: token choice's.
        makespan: its largest load.
        unified: (T E + 1,), the budget LP's optimum with exactly N pairs, N = 0, 1, ...
        served: the same with one pair or more for every token; -inf for N < T.
        capacity: the optimum with capacity at some C.
        at_unified, at_served, at_capacity: where each first holds `value`.
    """

    pairs: int
    value: float
    makespan: int
    unified: Tensor
    served: Tensor
    capacity: tuple[CapacityPoint, ...]
    at_unified: Attained
    at_served: Attained
    at_capacity: Attained


def inference_cost(
    scores: Scores, k: int, *, factors: Sequence[float] = (CLAIMED, 1.0, 1.25)
) -> InferenceCost:
    """The curves of value against budget, and the smallest budgets that hold token choice's value.

    Unified and served unified are prefix sums of sorted scores, exact up to rounding. Capacity is
    solved at C = ceil(factor k T / E), the prices of one point starting the next. Under at most k
    experts a token nothing is worth more than row top-k, and only another top-k of equal scores is
    worth as much: so capacity draws level exactly at the smallest C that some such top-k fits in.
    Where every token's k-th score is above 0 and above its next, that is token choice's largest
    load; else the smaller C are tried by bisection, up to rounding; at the least C = 1.

    Args:
        scores: (T, E), finite and >= 0, such as a softmax.
        k: experts per token.
        factors: where to look at capacity, each > 0.

    Raises:
        InputError: scores that are negative or infinite, k > E, a factor that is not positive.
    """
    scores = as_scores(scores).double()
    T, E = scores.shape
    k = whole(k, "k", 1, E, "E, the number of experts")
    for factor in factors:
        number(factor, "factors", "numbers above 0", lambda given: 0 < given < math.inf)
    refuse_nan_and_inf(scores, "inference_cost: scores")
    if bool((scores < 0).any()):
        raise InputError(
            f"inference_cost: expected scores >= 0 for every pair, such as a softmax, got "
            f"{float(scores.min()):g}; a budget is worth filling only where pairs are worth having."
        )
    chosen = row_choice(scores, k)
    value, makespan = worth(scores, chosen), int(chosen.sum(0).max())
    free, fair = _curves(scores)
    needed = value * (1 - ROUNDING)
    first = [int((curve >= needed).int().argmax()) for curve in (free, fair)]
    best = largest(scores, 1)
    pooled = largest(scores.flatten(), first[0]).view_as(scores)
    rest = scores.masked_fill(best, float("-inf")).flatten()
    served = best | largest(rest, first[1] - T).view_as(scores)
    level = _smallest_capacity(scores, k, needed, makespan)
    return InferenceCost(
        pairs=k * T,
        value=value,
        makespan=makespan,
        unified=free,
        served=fair,
        capacity=_points(scores, k, factors),
        at_unified=Attained(first[0], _fullest(pooled)),
        at_served=Attained(first[1], _fullest(served)),
        at_capacity=Attained(E * level, level),
    )


def _fullest(chosen: Tensor) -> int:
    return int(chosen.sum(0).max())


def _curves(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The best value of exactly N pairs, (T E + 1,): of any, and with every token served."""
    T = scores.shape[0]
    ordered = scores.sort(dim=1, descending=True).values
    free = _running(scores.flatten())
    rest = _running(ordered[:, 1:].flatten())
    unserved = scores.new_full((T,), float("-inf"))
    return free, torch.cat([unserved, ordered[:, 0].sum() + rest])


def _running(values: Tensor) -> Tensor:
    """Sums of the 0, 1, 2, ... largest values, (n + 1,)."""
    return torch.nn.functional.pad(values.sort(descending=True).values.cumsum(0), (1, 0))


def _at_capacity(
    scores: Tensor, k: int, capacity: int, start: Prices | None
) -> tuple[CapacityPoint, Prices | None]:
    solver = HiGHS() if scores.numel() <= TINY else Pricing(start=start)
    solution = solve(capacity_problem(scores, k, capacity), solver)
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


def in_order(cost: InferenceCost) -> bool:
    """Whether the budgets are the smallest, and the curves keep what is provable."""
    slack = 1e-9 * (1 + cost.value)
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


def examine(subject: Subject) -> Evidence:
    """Layer by layer: the smallest budgets, their makespans, and what 86 % of the pairs hold."""
    costs = [
        inference_cost(softmax(logits), subject.k, factors=() if layer else FACTORS)
        for layer, logits in enumerate(subject.logits)
    ]
    pairs = costs[0].pairs
    few = int(CLAIMED * pairs)

    def shares(which: str) -> list[float]:
        return [100 * getattr(cost, f"at_{which}").budget / pairs for cost in costs]

    held = [100 * float(cost.unified[few]) / cost.value for cost in costs]
    point = costs[0].capacity[0]
    capped = 100 * point.value / costs[0].value if costs[0].value else 100.0
    sentence = (
        f"Token choice's softmax score with {pairs} pairs is reached by unified with "
        f"{span(shares('unified'))} % of them (fullest expert "
        f"{span([c.at_unified.makespan for c in costs])} tokens, token choice's "
        f"{span([c.makespan for c in costs])}), by served unified with "
        f"{span(shares('served'))} %, by capacity only with {span(shares('capacity'))} % as slots. "
        f"With {few} pairs, 14 % fewer, unified holds {span(held)} % of it; "
        f"capacity at {FACTORS[0]:g} times the mean load holds {capped:.3g} % on layer 0."
    )
    numbers: dict[str, Number] = {"pairs of token choice": pairs}
    for which in ("unified", "served", "capacity"):
        at = [getattr(cost, f"at_{which}") for cost in costs]
        numbers |= by_layer(f"smallest budget, {which}", [each.budget for each in at])
        numbers |= by_layer(f"makespan, {which}", [each.makespan for each in at])
    numbers |= by_layer("makespan, token choice", [cost.makespan for cost in costs])
    numbers |= by_layer("% of value held by unified at 86 % of the pairs", held)
    numbers[f"% of value, capacity {point.capacity}, layer 0"] = capped
    return Evidence(all(in_order(cost) for cost in costs), sentence, numbers)


def betrays(scores: Tensor) -> str | None:
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
    source=f"{PAPER}, efficiency; {CODE}",
    verdict=Verdict.EMPIRICAL,
    reason=(
        "That 14 % fewer pairs cost 14 % fewer expert FLOPs is an identity. Whether the score held "
        "is the same depends on the logits: T K pairs always suffice, since token choice is "
        "feasible there (B2). Score is not quality, which logits do not show; and a step lasts as "
        "long as its fullest expert, so the makespan stands beside every budget. With capacity "
        "(slots E C, at most k a token) nothing is worth more than row top-k, so it draws level "
        "only when C reaches token choice's largest load."
    ),
    examine=examine,
    betrays=betrays,
)
