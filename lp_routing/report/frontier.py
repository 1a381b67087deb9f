"""Value over a budget: proved values, shadow prices, and routers at the same budgets.

For the terminal: budgets and their values, and answers in sentences (`frontier_table`,
`sentences`). For the HTML report: value over capacity in a layer (`capacity_result`,
`capacity_section`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite, nan
from typing import Any

from rich.table import Table as RichTable

from lp_routing import frontier
from lp_routing.certificate.certificate import TOLERANCE
from lp_routing.errors import InputError
from lp_routing.frontier.budgets import capacity_point
from lp_routing.frontier.curves import CertifiedCurve
from lp_routing.frontier.refine import Point
from lp_routing.frontier.summary import FrontierSettings, catalogue_curve
from lp_routing.report import plots
from lp_routing.report.document import (
    SHOWN_AS_ZERO,
    Attempt,
    Block,
    Cell,
    Column,
    Failure,
    Folded,
    Paragraph,
    ReportSettings,
    Section,
    Table,
    attempt,
    counted,
    number,
    percent,
    quoted,
    terminal_table,
)
from lp_routing.report.figures import drawn
from lp_routing.report.layer_results import LayerResult
from lp_routing.report.plots.frontier import RouterPoints
from lp_routing.solvers.solve import exact_solver

MOST_LINES = 20
"""Most lines of a table, for one screen; of more points an evenly spaced part is shown."""

UNITS = {
    "total": ("N", "pair"),
    "capacity": ("C", "slot at every expert"),
    "k": ("K", "expert for every token"),
    "layers": ("N", "pair"),
}
"""Budget -> its letter, and its unit in words."""

LEGEND = (
    "value: of the best assignment found. of most: relative to the budget that is worth most. last "
    "adds, next adds: the shadow prices on the left and on the right, what the last unit of this "
    "budget brings and one more would; two numbers are bounds of it. gap: to the proved bound."
)


def frontier_table(title: str, over: str, found: Mapping[str, Any]) -> RichTable:
    """A line for each budget: value, share of the most, shadow prices, gap."""
    table, share = terminal_table(title, padding=(0, 1, 0, 0)), found["share"]
    first = (UNITS[over][0], *([] if share is None else ["factor"]))
    for name in (*first, "value", "of most", "last adds", "next adds", "gap"):
        table.add_column(name, justify="right", no_wrap=True)
    at = found["answers"]["at"]
    for point in few(found["points"], at):
        value = point["value"]
        of_most = f"{100 * value / found['largest']:.2f} %" if found["largest"] > 0 else "-"
        adds = (adds_in_words(point["last"]), adds_in_words(point["next"]))
        factor = [] if share is None else [f"{point['budget'] / share:.4g}"]
        cells = (f"{point['budget']}", *factor, f"{value:.6g}", of_most, *adds, _gap(point))
        table.add_row(*cells, style="bold" if point["budget"] == at else "")
    return table


def few(points: Sequence[Mapping[str, Any]], at: int) -> list[Mapping[str, Any]]:
    """At most `MOST_LINES` points with the ends, and the one at the budget `at` if it is there."""
    steps = MOST_LINES - 2
    places = {round(i * (len(points) - 1) / steps) for i in range(steps + 1)}
    marked = {i for i, point in enumerate(points) if point["budget"] == at}
    return [points[i] for i in sorted(places | marked)]


def sentences(over: str, k: int, found: Mapping[str, Any]) -> list[str]:
    """The answers in words."""
    letter, one = UNITS[over]
    answers, most = found["answers"], found["largest"]
    said = [_token_choice(letter, k, answers["token_choice"])]
    if answers["shares"]:
        shares = [
            f"{100 * float(share):g} % {_attained(letter, by)}"
            for share, by in answers["shares"].items()
        ]
        said.append(f"Of the most that any {letter} buys, {most:.6g}: {'; '.join(shares)}.")
    if answers["in_use"] > answers["at"]:
        said.append(f"{letter} = {answers['in_use']} buys no more than {letter} = {answers['at']}.")
    said.append(_slot(letter, one, answers["there"]))
    said += _highest_price(answers) + _next_layer(answers)
    costs = {
        f"Balance (exactly {k} a token, equal loads, against token choice)": "balance",
        f"Serving every token (of {_pairs(k)} a token on average)": "serving",
    }
    said += [_cost(what, answers[name]) for what, name in costs.items() if name in answers]
    routers = [_router(letter, each, answers["at"]) for each in found["routers"]]
    return [*said, *routers, _how_exact(found)]


def _pairs(k: int) -> str:
    return "1 pair" if k == 1 else f"{k} pairs"


def _token_choice(letter: str, k: int, token: Mapping[str, Any] | None) -> str:
    if token is None:
        return f"Token choice with k={k} has no answer: some token may not go to {k} experts."
    by = _attained(letter, token["attained_by"])
    return f"Token choice with k={k} is worth {token['value']:.6g}, attained {by}."


def _highest_price(answers: Mapping[str, Any]) -> list[str]:
    if "expert" not in answers:
        return []
    expert = answers["expert"]
    return [
        f"The dearest expert at C = {answers['at']} is expert {expert['expert']}: its last slot is "
        f"worth {expert['last']:.4g}, one more there alone {expert['next']:.4g}."
    ]


def _next_layer(answers: Mapping[str, Any]) -> list[str]:
    if answers.get("next_layer") is None:
        return []
    split = ", ".join(map(str, answers["split"]))
    return [
        f"The next pair goes to layer {answers['next_layer']}; the best split of "
        f"N = {answers['at']} is {split}."
    ]


def _how_exact(found: Mapping[str, Any]) -> str:
    if found["breakpoints"] is not None:
        return f"Exact at every budget: {found['breakpoints']} breakpoints."
    between, most = found["between"], abs(found["largest"]) or 1.0
    solved = len(found["certified"]["budgets"])
    if between <= TOLERANCE * most:
        return f"Proved at every budget, up to rounding, by {solved} that were solved."
    return (
        f"Between the {solved} budgets that were solved, the value is known within {between:.2g} "
        f"({100 * between / most:.2g} % of the most)."
    )


def adds_in_words(interval: Sequence[float] | None) -> str:
    """`0.123`, `0.12 to 0.15` where two bounds are known, or nothing past an end."""
    if interval is None:
        return ""
    low, high = interval
    if abs(high - low) <= 1e-6 * max(abs(low), abs(high), 1e-9):
        return f"{high:.4g}"
    return f"{low:.3g} to {high:.3g}"


def _gap(point: Mapping[str, Any]) -> str:
    gap = point["bound"] - point["value"]
    relative = gap / abs(point["bound"]) if point["bound"] else gap
    if abs(relative) < SHOWN_AS_ZERO:
        return "0"
    return f"{relative:.0e}" if abs(relative) < 5e-5 else f"{100 * relative:.2f} %"


def _attained(letter: str, by: Sequence[int | None] | None) -> str:
    if by is None:
        return f"by no {letter}"
    needed, enough = by
    if needed == enough:
        return f"from {letter} = {enough} on"
    known = f"by no {letter} that is known" if enough is None else f"from {letter} = {enough} on"
    return f"{known}, and by none below {letter} = {needed}"


def _slot(letter: str, one: str, there: Mapping[str, Any]) -> str:
    """The value of one unit at the budget in use."""
    said = []
    if there["last"] is not None:
        said.append(f"the last {one} brings {adds_in_words(there['last'])}")
    if there["next"] is not None:
        more = "one more" if said else f"one more {one}"
        said.append(f"{more} would bring {adds_in_words(there['next'])}")
    return f"At {letter} = {there['budget']}, {', '.join(said) or 'the only budget'}."


def _cost(what: str, cost: Mapping[str, Any]) -> str:
    if "cannot" in cost:
        return f"{what} cannot be had: {cost['cannot']}"
    share = "" if cost["share"] is None else f", {100 * cost['share']:.3g} %"
    return (
        f"{what} costs {cost['lost']:.4g}{share}: {cost['constrained']:.6g} in place of "
        f"{cost['free']:.6g}."
    )


def _router(letter: str, curve: Mapping[str, Any], at: int) -> str:
    """What a router loses to the bound, over all budgets and at the one in use."""
    name, tried = curve["name"], len(curve["budgets"])
    points = zip(curve["values"], curve["bounds"], curve["feasible"], strict=True)
    kept = [(value, bound) for value, bound, feasible in points if feasible]
    if not kept:
        return f"{name} breaks a bound at each of {tried} budgets."
    broken = f"; breaks a bound at {tried - len(kept)} of {tried}" if len(kept) < tried else ""
    lost = [100 * (1 - value / bound) for value, bound in kept if bound > 0]
    if not lost:
        return f"{name} has no share to lose of bounds that are not positive{broken}."
    places = [place for place, n in enumerate(curve["budgets"]) if n == at]
    value, bound, keeps = (curve[name] for name in ("values", "bounds", "feasible"))
    here = [100 * (1 - value[i] / bound[i]) for i in places if keeps[i] and bound[i] > 0]
    at_use = f"{max(0.0, here[0]):.2f} % of the bound at {letter} = {at}, " if here else ""
    return (
        f"{name} loses {at_use}{max(0.0, min(lost)):.2f} to {max(0.0, *lost):.2f} % "
        f"{'over all' if here else 'of the bound'}{broken}."
    )


POINTS = 20
"""Capacities that are solved, as many as `lp-routing frontier` solves: more prove narrower bounds
between them, at one solve each.

On layer 0 of the sample (1,024 tokens) `lp-routing frontier --over capacity --points 10` knows the
value between them within 1.7 % of the most, with 20 within 0.42 %, with 40 within 0.1 %.
"""

CURVES = 4
"""Most routers drawn beside the optimum: more would need more marks than a reader tells apart."""


@dataclass(frozen=True, eq=False)
class CapacitySection:
    """The value of capacities in one layer.

    Attributes:
        layer: its number.
        curve: the best value of every capacity of an expert.
        around: one slot less than the capacity of the report, that capacity, one slot more.
        enough: the smallest capacity whose optimum attains the main router's value, and the one
            below it; fewer where there is none.
        routers: the first routers' values at the solved capacities.
        without: why some of them have no curve, a sentence each.
        prices: capacity -> the prices of all experts that prove its bound.
        balance: the share of the score lost by giving every token exactly k experts and every
            expert the same load; NaN where that is infeasible, or the value without it is not above
            0.
    """

    layer: int
    curve: CertifiedCurve
    around: Sequence[Point]
    enough: Sequence[Point]
    routers: Sequence[RouterPoints]
    without: Sequence[str]
    prices: Mapping[int, Sequence[float]]
    balance: float


def capacity_result(settings: ReportSettings, each: LayerResult | None) -> CapacitySection:
    """Solve the capacities of a layer, and route at each.

    Raises:
        InputError: no layer.
        RuntimeError: a capacity that the page mentions is not proved.
    """
    if each is None:
        raise InputError("no layer could be examined.")
    layer, scores, row, C = each, each.problem.scores, each.rows[0], settings.capacity
    points = {C: capacity_point(each.solution, C)}
    solver = exact_solver(each.problem, settings.seed)
    over = partial(frontier.over_capacity, scores, settings.k, solver=solver, kept=points)
    curve = over(points=POINTS, at=range(max(C - 1, 0), C + 2))

    def at(capacity: int) -> Point:
        if capacity not in points:
            over(budgets=[capacity])
        point = points[capacity]
        if point.bound - point.value > TOLERANCE * abs(point.bound):
            raise RuntimeError(
                f"capacity {capacity} is not proved: its bound is {point.bound - point.value:.3g} "
                f"above its value."
            )
        return point

    tried = [int(n) for n in curve.budgets.tolist() if n >= 1]
    by_name = partial(catalogue_curve, logits=layer.logits, worth=scores, tried=tried)
    asked = _frontier_settings(settings)
    curves = {n: attempt(partial(by_name, n, settings=asked)) for n in settings.routers[:CURVES]}
    balance = attempt(lambda: frontier.cost_of_balance(scores, settings.k)).result
    around = [at(n) for n in (C - 1, C, C + 1)]
    enough = _smallest(row.value, at, C) if row.feasible else []
    return CapacitySection(
        layer=each.layer,
        curve=curve,
        around=around,
        enough=enough,
        routers=[each.result for each in curves.values() if each.result is not None],
        without=[f"{quoted(n)} has no curve: {e.error}" for n, e in curves.items() if e.error],
        prices={n: points[n].experts for n in sorted(points)},
        balance=nan if balance is None or balance.free <= 0 else balance.share,
    )


def _frontier_settings(settings: ReportSettings) -> FrontierSettings:
    """The same question as `lp-routing frontier --over capacity` asks."""
    return FrontierSettings(
        over="capacity",
        k=settings.k,
        capacity_factor=settings.capacity_factor,
        score=settings.score,
        points=POINTS,
        routers=tuple(settings.routers[:CURVES]),
        seed=settings.seed,
    )


def _smallest(value: float, at: Callable[[int], Point], known: int) -> list[Point]:
    """The smallest capacity that attains a value, by bisection, and the one below it.

    Args:
        value: which.
        at: the optimum of a capacity; it rises with it.
        known: a capacity that is enough.
    """
    value -= TOLERANCE * abs(value)
    low, high = -1, known
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if at(middle).value >= value else (middle, high)
    return [at(n) for n in (high, low) if n >= 0]


def capacity_section(settings: ReportSettings, found: Attempt[CapacitySection]) -> Section:
    """The figure, the sentences, and the table of what was solved."""
    title = "What capacity buys"
    if found.result is None:
        return Section("capacity", title, [Failure(found.error)])
    each = found.result

    blocks: list[Block] = [
        Paragraph(" ".join([*capacity_sentences(settings, each), *each.without])),
        *drawn(
            "Value of capacity",
            lambda: plots.frontier(
                each.curve,
                each.routers,
                over="capacity",
                in_use=min(settings.capacity, each.curve.last),
                share=settings.tokens * settings.k / settings.experts,
            ),
            "What the best assignment is worth at every capacity of an expert, what routers make "
            "of it, and what one more slot at every expert brings.",
        ),
        _capacity_table(settings, each),
        _folded_prices(settings, each),
    ]
    return Section("capacity", f"{title} in layer {each.layer}", blocks)


def _folded_prices(settings: ReportSettings, found: CapacitySection) -> Folded:
    lines = [f"C = {n}: {', '.join(map(repr, prices))}" for n, prices in found.prices.items()]
    return Folded(
        f"Prices that prove these bounds: {counted(settings.experts, 'number')} for each of "
        f"{counted(len(lines), 'capacity', 'capacities')}",
        f"{settings.score} scores per slot, in the order of experts\n" + "\n".join(lines),
    )


def capacity_sentences(settings: ReportSettings, found: CapacitySection) -> list[str]:
    """The answers in words."""
    less, here, more = found.around
    most, free = int(found.curve.budgets[-1]), float(found.curve.values[-1])
    worth = f"In layer {found.layer} the best assignment with {here.budget:,} slots an expert is "
    worth += f"worth {here.value:.6g}"
    if here.budget < most and free > 0:
        worth += f", {percent(here.value / free, 4)} of what {most:,} slots or more would bring"
    said = [
        f"{worth}.",
        f"The last slot at every expert brings {here.value - less.value:.4g} in all, one more "
        f"would bring {more.value - here.value:.4g}.",
    ]
    if found.enough and found.enough[0].budget < here.budget:
        said.append(
            f"What {quoted(settings.main)} attains with {here.budget:,} slots an expert, an "
            f"optimal assignment attains with {found.enough[0].budget:,}."
        )
    if isfinite(found.balance):
        said.append(
            f"Exactly {settings.k} experts for every token and equal loads would cost "
            f"{percent(found.balance)} of what is attainable without any limit."
        )
    return said


def _capacity_table(settings: ReportSettings, found: CapacitySection) -> Table:
    curve = found.curve
    share = settings.tokens * settings.k / settings.experts
    columns = [
        Column("capacity C", numeric=True),
        Column("factor", numeric=True),
        Column("value", numeric=True),
        Column("bound", numeric=True),
        Column("gap", numeric=True),
        Column("price", numeric=True),
        *[Column(router.name, numeric=True) for router in found.routers],
    ]
    beside = [_lost_cells(router, curve) for router in found.routers]
    rows = [
        [
            Cell(f"{each.budget:,}", each.budget),
            number(each.budget / share, 3),
            number(each.value, 9),
            number(each.bound, 9),
            _gap_cell(each),
            number(each.price, 4),
            *[lost.get(each.budget, Cell("-")) for lost in beside],
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


def _gap_cell(each: Point) -> Cell:
    """Bound minus value; 0 where it is rounding."""
    gap = each.bound - each.value
    gap = 0.0 if abs(gap) <= SHOWN_AS_ZERO * abs(each.bound) else gap
    return Cell(f"{gap:.3g}", gap)


def _solved(found: CapacitySection) -> list[Point]:
    """All capacities that were solved, the smallest first."""
    curve = found.curve
    columns = (curve.budgets, curve.values, curve.bounds, curve.prices)
    points = [Point(*point) for point in zip(*(c.tolist() for c in columns), strict=True)]
    by_capacity = {each.budget: each for each in (*points, *found.enough, *found.around)}
    return [by_capacity[C] for C in sorted(by_capacity)]


def _lost_cells(router: RouterPoints, curve: CertifiedCurve) -> dict[int, Cell]:
    """Capacity -> the router's relative distance to the bound there."""
    found = {}
    tried = zip(
        router.budgets.tolist(), router.values.tolist(), router.feasible.tolist(), strict=True
    )
    for budget, value, feasible in tried:
        bound = float(curve.bound(budget))
        if not feasible:
            found[int(budget)] = Cell("breaks a bound", tone="bad")
        elif bound > 0:
            share = 1 - value / bound
            share = 0.0 if abs(share) < SHOWN_AS_ZERO else share
            found[int(budget)] = Cell(percent(share), share)
    return found
