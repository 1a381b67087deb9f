"""What budget other mechanisms need for token choice's score, with the curves of value and load."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lp_routing.certificate.prices import Prices
from lp_routing.errors import InputError
from lp_routing.pricing import Pricing
from lp_routing.problem.named import capacity as capacity_problem
from lp_routing.routers.selection import largest
from lp_routing.routers.token_choice import TopK
from lp_routing.solvers import HiGHS
from lp_routing.solvers.solve import solve
from lp_routing.validation import Scores, as_scores, number, refuse_nan_and_inf, whole

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
    """Pairs by falling score, lower index first; `first` = T takes every token's best before all.

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
    """How many of an expert's pairs have been taken with each of some pairs (n,), itself included.

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
