"""What capacity buys in a layer: the proved value of every capacity, and routers beside it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from math import isfinite
from typing import Any, NamedTuple

from lp_routing import frontier
from lp_routing.errors import InputError
from lp_routing.evaluation.evaluate import ROUNDING
from lp_routing.frontier.curves import Certified
from lp_routing.pricing import Pricing
from lp_routing.problem.named import capacity as capacity_problem
from lp_routing.problem.problem import RoutingProblem
from lp_routing.report import plots
from lp_routing.report.html.asked import Asked
from lp_routing.report.html.content import (
    Block,
    Cell,
    Column,
    Failure,
    Folded,
    Paragraph,
    Section,
    Table,
    counted,
    number,
    percent,
    quoted,
)
from lp_routing.report.html.examined import Examined, built
from lp_routing.report.html.figures import drawn
from lp_routing.report.html.outcome import Outcome, outcome
from lp_routing.report.plots.curves import RouterPoints
from lp_routing.routers.base import AnyRouter
from lp_routing.solvers.base import Answer
from lp_routing.solvers.solve import Status, solve

POINTS = 20
"""Capacities that are solved; between them the value is proved within bounds."""

CURVES = 4
"""Routers drawn beside the optimum, at most: more curves cannot be told apart."""


class Noting(Pricing):
    """`Pricing` that notes the prices it finds, by capacity: what each bound rests on."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed=seed)
        self.noted: dict[int, list[float]] = {}

    def answer(self, problem: RoutingProblem, *, integral: bool = False) -> Answer:
        """As `Pricing`."""
        answer = super().answer(problem, integral=integral)
        experts = problem.family("expert")
        if experts is not None and answer.prices is not None:
            capacity = int(experts.upper.max())
            self.noted[capacity] = answer.prices.of(experts).double().tolist()
        return answer


class Solved(NamedTuple):
    """A capacity, and what is proved of it.

    Attributes:
        capacity: tokens an expert may take.
        value: of a feasible assignment.
        bound: no feasible assignment is worth more.
        price: the sum of the shadow prices of all experts.
    """

    capacity: int
    value: float
    bound: float
    price: float


@dataclass(frozen=True, eq=False)
class Bought:
    """The value of capacities in one layer.

    Attributes:
        layer: its number.
        curve: the best value of every capacity of an expert.
        around: one slot less than the capacity of the report, that capacity, one slot more.
        enough: the smallest capacity whose optimum is worth what the main router takes, and the
            one below it; fewer where there is none.
        routers: what the first routers make of the capacities that were solved.
        without: why others of them have no curve, a sentence each.
        prices: capacity -> the prices of all experts that prove its bound.
        balance: the share of the score that it costs to give every token exactly k experts and
            every expert the same load; NaN where that cannot be.
    """

    layer: int
    curve: Certified
    around: Sequence[Solved]
    enough: Sequence[Solved]
    routers: Sequence[RouterPoints]
    without: Sequence[str]
    prices: Mapping[int, Sequence[float]]
    balance: float


def bought(asked: Asked, each: Examined | None) -> Bought:
    """Solve the capacities of a layer, and route at each.

    Raises:
        InputError: no layer.
    """

    if each is None:
        raise InputError("no layer could be examined.")
    layer, scores, row = each, each.problem.scores, each.rows[0]
    C, solver = asked.capacity, Noting(asked.seed)
    around = range(max(C - 1, 0), C + 2)
    curve = frontier.over_capacity(scores, asked.k, points=POINTS, at=around, solver=solver)

    def problem_at(capacity: int) -> RoutingProblem:
        return capacity_problem(scores, asked.k, capacity)

    @cache
    def at(capacity: int) -> Solved:
        solution = solve(problem_at(capacity), solver)
        if solution.status is not Status.OPTIMAL:  # what is said of it must be proved
            raise RuntimeError(f"capacity {capacity} ended {solution.status.name}, without proof.")
        prices = solution.prices
        price = float("nan") if prices is None or prices.experts is None else prices.experts.sum()
        return Solved(capacity, float(solution.value), float(solution.bound), float(price))

    def curve_of(name: str) -> RouterPoints:
        def make(capacity: int) -> AnyRouter:
            return built(name, layer.shape._replace(capacity=capacity), asked.seed)

        own: Any = frontier.router_curve(make, some, problem_at, layer.logits)
        named: RouterPoints = replace(own, name=name)
        return named

    some = [int(n) for n in curve.budgets.tolist() if n >= 1]
    curves = {name: outcome(partial(curve_of, name)) for name in asked.routers[:CURVES]}
    balance = outcome(lambda: float(frontier.cost_of_balance(scores, asked.k).share)).result
    return Bought(
        layer=each.layer,
        curve=curve,
        around=[at(n) for n in (C - 1, C, C + 1)],
        enough=_smallest(row.value, at, C) if row.feasible else [],
        routers=[each.result for each in curves.values() if each.result is not None],
        without=[f"{quoted(n)} has no curve: {e.error}" for n, e in curves.items() if e.error],
        prices={n: solver.noted[n] for n in sorted(solver.noted)},
        balance=float("nan") if balance is None else balance,
    )


def _smallest(value: float, at: Callable[[int], Solved], known: int) -> list[Solved]:
    """The smallest capacity worth a value, found by halving, and the one below it.

    Args:
        value: which.
        at: the optimum of a capacity; it rises with it.
        known: a capacity that is enough.
    """
    value -= ROUNDING * abs(value)
    low, high = -1, known
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if at(middle).value >= value else (middle, high)
    return [at(n) for n in (high, low) if n >= 0]


def bought_section(asked: Asked, found: Outcome[Bought]) -> Section:
    """The figure, the sentences, and the table of what was solved."""
    title = "What capacity buys"
    if found.result is None:
        return Section("capacity", title, [Failure(found.error)])
    each = found.result

    blocks: list[Block] = [
        Paragraph(" ".join([*sentences(asked, each), *each.without])),
        *drawn(
            "Value of capacity",
            lambda: plots.frontier(
                each.curve,
                each.routers,
                over="capacity",
                in_use=min(asked.capacity, each.curve.last),
            ),
            "What the best assignment is worth at every capacity of an expert, what routers make "
            "of it, and what one more slot at every expert brings.",
        ),
        _table(asked, each),
        _folded(asked, each),
    ]
    return Section("capacity", f"{title} in layer {each.layer}", blocks)


def _folded(asked: Asked, found: Bought) -> Folded:
    lines = [f"C = {n}: {', '.join(map(repr, prices))}" for n, prices in found.prices.items()]
    return Folded(
        f"Prices that prove these bounds: {counted(asked.experts, 'number')} for each of "
        f"{counted(len(lines), 'capacity', 'capacities')}",
        f"{asked.score} scores per slot, in the order of experts\n" + "\n".join(lines),
    )


def sentences(asked: Asked, found: Bought) -> list[str]:
    """The answers in words."""
    less, here, more = found.around
    most, free = int(found.curve.budgets[-1]), float(found.curve.values[-1])
    worth = f"In layer {found.layer} the best assignment with {here.capacity:,} slots an expert is "
    worth += f"worth {here.value:.6g}"
    if here.capacity < most and free > 0:
        worth += f", {percent(here.value / free, 4)} of what {most:,} slots or more would bring"
    said = [
        f"{worth}.",
        f"The last slot at every expert brings {here.value - less.value:.4g} in all, one more "
        f"would bring {more.value - here.value:.4g}.",
    ]
    if found.enough and found.enough[0].capacity < here.capacity:
        said.append(
            f"What {quoted(asked.main)} attains with {here.capacity:,} slots an expert, an optimal "
            f"assignment attains with {found.enough[0].capacity:,}."
        )
    if isfinite(found.balance):
        said.append(
            f"Exactly {asked.k} experts for every token and equal loads would cost "
            f"{percent(found.balance)} of what is attainable without any limit."
        )
    return said


def _table(asked: Asked, found: Bought) -> Table:
    curve = found.curve
    share = asked.tokens * asked.k / asked.experts
    columns = [
        Column("capacity C", numeric=True),
        Column("factor", numeric=True),
        Column("value", numeric=True),
        Column("bound", numeric=True),
        Column("gap", numeric=True),
        Column("price", numeric=True),
        *[Column(router.name, numeric=True) for router in found.routers],
    ]
    beside = [_lost(router, curve) for router in found.routers]
    rows = [
        [
            Cell(f"{each.capacity:,}", each.capacity),
            number(each.capacity / share, 3),
            number(each.value, 9),
            number(each.bound, 9),
            Cell(f"{each.bound - each.value:.3g}", each.bound - each.value),
            number(each.price, 4),
            *[lost.get(each.capacity, Cell("-")) for lost in beside],
        ]
        for each in _solved(found)
    ]
    return Table(
        "The capacities that were solved: the value of a feasible assignment, the bound that none "
        "exceeds, the sum of all experts' shadow prices, which is the most that one more slot at "
        "every expert brings, and what routers lose to the bound there. Between these capacities "
        f"the value is known within {float(curve.gap):.3g}.",
        columns,
        rows,
    )


def _solved(found: Bought) -> list[Solved]:
    """All capacities that were solved, the smallest first."""
    curve = found.curve
    columns = (curve.budgets, curve.values, curve.bounds, curve.prices)
    points = [Solved(*point) for point in zip(*(c.tolist() for c in columns), strict=True)]
    by_capacity = {each.capacity: each for each in (*points, *found.enough, *found.around)}
    return [by_capacity[C] for C in sorted(by_capacity)]


def _lost(router: RouterPoints, curve: Certified) -> dict[int, Cell]:
    """Capacity -> what a router lacks to the bound there."""
    found = {}
    tried = zip(
        router.budgets.tolist(), router.values.tolist(), router.feasible.tolist(), strict=True
    )
    for budget, value, feasible in tried:
        bound = float(curve.bound(budget))
        if not feasible:
            found[int(budget)] = Cell("breaks a bound", tone="bad")
        elif bound > 0:
            found[int(budget)] = Cell(percent(1 - value / bound), 1 - value / bound)
    return found
