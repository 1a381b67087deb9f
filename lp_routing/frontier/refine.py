"""Solve next at the budget where bound and value differ most."""

from collections.abc import Callable, MutableMapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise
from math import floor
from typing import NamedTuple

import torch

from lp_routing.certificate.certificate import TOLERANCE, dual_bound
from lp_routing.certificate.prices import Prices
from lp_routing.errors import InputError
from lp_routing.frontier.curves import CertifiedCurve
from lp_routing.problem.problem import RoutingProblem
from lp_routing.solvers import Solver
from lp_routing.solvers.solve import Solution, solve
from lp_routing.validation import as_int, as_list, as_rising


class Point(NamedTuple):
    """A solved budget.

    Attributes:
        budget: n.
        value: of a feasible assignment.
        bound: no feasible assignment is worth more; proved by the prices.
        price: the slope in n of the bound at these prices.
        experts: the prices of the experts, in their order; empty where experts have no bounds, or
            the bound follows from the scores alone.
    """

    budget: int
    value: float
    bound: float
    price: float
    experts: Sequence[float] = ()


class BudgetFamily(NamedTuple):
    """Problems that differ in one budget n.

    Attributes:
        problem_at: the problem with budget n.
        price_of: the slope in n of the dual bound at fixed prices.
        solver: finds each optimum; None for `MinCostFlow` where optima are whole, HiGHS elsewhere.
        kept: points solved before, by budget; those solved now are added.
    """

    problem_at: Callable[[int], RoutingProblem]
    price_of: Callable[[RoutingProblem, Prices], float]
    solver: Solver | None = None
    kept: MutableMapping[int, Point] | None = None


def solved(family: BudgetFamily, n: int) -> Point:
    """The point of budget n, solved if it was not before.

    Raises:
        InputError: no assignment was found; or a solver without prices.
    """
    if not isinstance(family.kept, MutableMapping | None):
        raise InputError(f"kept: expected a dict of points, got {type(family.kept).__name__}.")
    if family.kept is not None and n in family.kept:
        return family.kept[n]
    point = point_of(n, solve(family.problem_at(n), family.solver), family.price_of)
    if family.kept is not None:
        family.kept[n] = point
    return point


def point_of(
    n: int, solution: Solution, price_of: Callable[[RoutingProblem, Prices], float]
) -> Point:
    """The point of a solved problem with budget n.

    Raises:
        InputError: no assignment was found; or a solver without prices.
    """
    problem, prices = solution.problem, solution.prices
    if solution.certificate is None:
        raise InputError(f"budget {n}: {solution.status.name}: {solution.explanation}")
    if not prices.given:
        raise InputError(f"{solution.solver} gives no prices; use MinCostFlow() or HiGHS().")
    experts = problem.family("expert")
    dear = () if experts is None else prices.of(experts).double().tolist()
    bound = _by_prices(problem, solution, prices)
    return Point(n, float(solution.value), bound, price_of(problem, prices), dear)


def at_budgets(family: BudgetFamily, budgets: Sequence[int]) -> CertifiedCurve:
    """Solve exactly these budgets.

    Raises:
        InputError: no budgets, none that are whole and rise, or one without an assignment.
    """
    return as_curve([solved(family, n) for n in as_rising(budgets, "budgets", 0)])


def refined(
    family: BudgetFamily, ends: tuple[Point, Point], points: int | None, at: Sequence[int] = ()
) -> CertifiedCurve:
    """Solve where bound and value differ most, one budget after the other (Eisner and Severance).

    Eisner and Severance 1976, "Mathematical techniques for efficient record segmentation in large
    shared databases": tangents of two solved budgets meet where the curve can be farthest above
    their chord. A budget that cannot be solved ends the search between its neighbours.

    Args:
        family: the problems.
        ends: the points of the smallest and of the largest budget.
        points: most points in all, the ends included; None to go on until every whole budget is
            proved.
        at: budgets between the ends that are solved in any case; they do not count as points.
    """
    count = None if points is None else as_int(points, "points", 2)
    found = {end.budget: end for end in ends}
    wanted = {as_int(n, "at", 0) for n in as_list(at, "at", "whole numbers")}
    inside = wanted & set(range(ends[0].budget + 1, ends[1].budget))
    found |= {n: solved(family, n) for n in inside}
    small = TOLERANCE * max(abs(number) for end in ends for number in end[1:4])
    waiting = [_open_between(*pair) for pair in pairwise(found[n] for n in sorted(found))]
    heapify(waiting)
    given = len(inside)
    while waiting and -waiting[0][0] > small and (count is None or len(found) - given < count):
        _, n, low, high = heappop(waiting)
        try:
            found[n] = point = solved(family, n)
        except InputError:
            continue
        if point.bound - point.value > small:  # a smaller gap cannot be proved here
            small = point.bound - point.value
        for neighbours in ((low, point), (point, high)):
            heappush(waiting, _open_between(*neighbours))
    return as_curve([found[n] for n in sorted(found)])


def as_curve(points: Sequence[Point]) -> CertifiedCurve:
    """The curve of solved budgets, in their order."""
    budgets, *columns = zip(*(point[:4] for point in points), strict=True)
    values, bounds, prices = (torch.tensor(column, dtype=torch.float64) for column in columns)
    return CertifiedCurve(torch.tensor(budgets), values, bounds, prices)


class _Open(NamedTuple):
    """The largest gap between two solved budgets; a heap gives the largest first."""

    minus_gap: float
    budget: int
    low: Point
    high: Point


def _open_between(low: Point, high: Point) -> _Open:
    """The whole budget between two solved ones with the largest gap."""
    apart = high.budget - low.budget
    if apart <= 1:
        return _Open(0.0, low.budget, low, high)
    drop = low.price - high.price
    reach = low.bound + low.price * apart - high.bound  # of the first tangent above the last point
    turn = low.budget + (apart - reach / drop if drop > 0 else apart / 2)
    inside = [min(max(n, low.budget + 1), high.budget - 1) for n in (floor(turn), floor(turn) + 1)]
    return max(
        (_Open(-_unproved(low, high, n), n, low, high) for n in inside),
        key=lambda each: -each.minus_gap,
    )


def _unproved(low: Point, high: Point, n: int) -> float:
    share = (n - low.budget) / (high.budget - low.budget)
    value = low.value + share * (high.value - low.value)
    tangents = (each.bound + each.price * (n - each.budget) for each in (low, high))
    return min(tangents) - value


def _by_prices(problem: RoutingProblem, solution: Solution, prices: Prices) -> float:
    """The bound that the prices prove; a bound of branch and bound has no tangent."""
    certificate = solution.certificate
    if certificate is not None and certificate.proof == "weak duality":
        return float(certificate.bound)
    return dual_bound(problem, prices)
