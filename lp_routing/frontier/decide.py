"""Which capacity factor to take: routing rules and the optimum at several factors, in all layers.

`layer_record` routes one layer at some capacities, and solves it; `decide` adds up the layers and
asks which factor keeps enough, and at which smaller one the optimum holds what dropping holds.
What it answers about factors in between is proved by the chords and tangents of
`lp_routing.frontier.curves`, of all layers together.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lp_routing import scores
from lp_routing.certificate.certificate import certify
from lp_routing.certificate.prices import Prices
from lp_routing.certificate.violations import ROUNDING
from lp_routing.errors import InputError
from lp_routing.frontier.budgets import over_capacity
from lp_routing.frontier.curves import CertifiedCurve
from lp_routing.frontier.refine import Point, as_curve
from lp_routing.problem.assignment import Assignment
from lp_routing.problem.named import balanced, capacity
from lp_routing.problem.problem import RoutingProblem
from lp_routing.routers import CapacityFactor, TopK
from lp_routing.routers.capacity import keep_first_tokens
from lp_routing.routers.price import taken_at
from lp_routing.solvers import MinCostFlow
from lp_routing.solvers.solve import Solution, Status, solve

DROPS, IN_ORDER, CAUSAL = "drop-by-score", "drop-token-major", "causal-prices"
OPTIMUM, BALANCED = "optimum", "balanced"
METHODS = (DROPS, IN_ORDER, CAUSAL, OPTIMUM, BALANCED)
"""In the order in which they are shown."""

REFITS = (8, 4, 2)
"""Causal prices are fitted when this part (1/8, ...) of the tokens has come, to those so far.

More fits follow a drift sooner and cost time. Three cost about as much as one optimum of all
tokens (0.09 against 0.07 s of processor time at 8,192 x 128, k = 8).
"""

MOST_ROUNDS = 8
"""Most further capacities that are solved for each question.

Each at least halves what is open; on the sample and on gpt-oss-20b two to four rounds close it.
"""

Record = Mapping[str, Any]
Run = Callable[[list[dict[str, Any]]], Sequence[Record]]


@dataclass(frozen=True)
class DecideSettings:
    """What is asked.

    Attributes:
        k: experts per token.
        score: name of the function from logits to what a pair is worth; rules choose by it, too.
        factors: capacity factors, rising.
        keep: the share of the value without a capacity that is to be kept, in (0, 1].
    """

    k: int
    score: str
    factors: tuple[float, ...]
    keep: float

    def capacity(self, factor: float, T: int, E: int) -> int:
        """Tokens an expert may take at a factor, T at most."""
        return min(CapacityFactor(factor).of(T, E, self.k), T)


def in_order(worth: Tensor, k: int, C: int) -> Tensor:
    """Row top-k, each expert keeps its first C tokens; boolean (T, E)."""
    return TopK(k, C, "position", "token").select(worth)


def by_score(worth: Tensor, k: int, C: int) -> Tensor:
    """Row top-k, each expert keeps its C best tokens; boolean (T, E)."""
    return TopK(k, C).select(worth)


def by_causal_prices(worth: Tensor, k: int, C: int) -> Tensor:
    """Top-k of score minus price, each expert keeps its first C tokens; boolean (T, E).

    Prices are those of the optimum of the tokens before, fitted three times (`REFITS`); the first
    tokens are routed without any. So no token depends on a later one.
    """
    T, E = worth.shape
    prices, taken, first = worth.new_zeros(E, dtype=torch.float64), [], 0
    for last in sorted({max(T // part, 1) for part in REFITS} | {T}):
        taken.append(taken_at(worth[first:last], prices, k))
        if last < T:
            before = capacity(worth[:last], k, -(-C * last // T))
            found = solve(before, MinCostFlow(start=Prices(prices))).prices.experts
            prices = prices if found is None else found
        first = last
    return keep_first_tokens(torch.cat(taken), C)


RULES = {DROPS: by_score, IN_ORDER: in_order, CAUSAL: by_causal_prices}


def layer_record(
    point: Mapping[str, Any], *, logits: Tensor, settings: DecideSettings
) -> dict[str, Any]:
    """One layer at some capacities, as JSON values.

    Args:
        point: "layer"; "capacities", rising; "rules": whether the routing rules and the balanced
            optimum are asked for, too.
        logits: (L, T, E) of all layers of the file.
        settings: what is asked.

    Returns:
        "ends": the first and the last point of the curve of value over capacity, which need no
        solve; "points": those solved; "rows": a row for each method and capacity.
    """
    _load_kernels()
    worth, k = scores.named(settings.score)(logits[point["layer"]], None), settings.k
    ends = over_capacity(worth, k, points=2)
    points, rows, start = [], [], None
    for C in point["capacities"]:
        problem = capacity(worth, k, C)
        solution = solve(problem, MinCostFlow(start=start))
        start = solution.prices
        points.append(_point(C, problem, solution))
        if point["rules"]:
            rows += [_ruled(name, problem, C, k) for name in RULES]
            rows.append(_solved(OPTIMUM, problem, C, solution))
    if point["rules"]:
        rows.append(_balanced(worth, k))
    return {
        "ends": [list(end) for end in zip(*_columns(ends), strict=True)],
        "points": points,
        "rows": rows,
    }


@cache
def _load_kernels() -> None:
    """Solve something small, so that no time measured is that of loading compiled code."""
    solve(capacity(torch.eye(2), 1, 1), MinCostFlow())


def _columns(curve: CertifiedCurve) -> list[list[float]]:
    columns = (curve.budgets, curve.values, curve.bounds, curve.prices)
    return [column.tolist() for column in columns]


def _point(C: int, problem: RoutingProblem, solution: Solution) -> list[float]:
    experts = problem.family("expert")
    assert experts is not None
    price = float(solution.prices.of(experts).sum())
    return [C, float(solution.value), float(solution.bound), price]


def _ruled(name: str, problem: RoutingProblem, C: int, k: int) -> dict[str, Any]:
    began = time.perf_counter()
    x = RULES[name](problem.scores, k, C)
    seconds = time.perf_counter() - began
    return _row(name, problem, C, Assignment(x), seconds)


def _solved(name: str, problem: RoutingProblem, C: int, solution: Solution) -> dict[str, Any]:
    if solution.assignment is None:
        why = f"{solution.status.name}: {solution.explanation}"
        return {"method": name, "capacity": C, "value": None, "why": why}
    experts = problem.family("expert")
    assert experts is not None
    price = float(solution.prices.of(experts).sum()) / problem.E
    found = _row(name, problem, C, solution.assignment, solution.seconds)
    proved = solution.status is Status.OPTIMAL
    return {**found, "price": price if name == OPTIMUM else None, "proved": proved}


def _balanced(worth: Tensor, k: int) -> dict[str, Any]:
    C = -(-len(worth) * k // worth.shape[1])
    try:
        problem = balanced(worth, k)
    except InputError as error:  # a token that may go nowhere
        return {"method": BALANCED, "capacity": C, "value": None, "why": str(error)}
    return _solved(BALANCED, problem, C, solve(problem))


def _row(
    name: str, problem: RoutingProblem, C: int, taken: Assignment, seconds: float
) -> dict[str, Any]:
    """The numbers of an assignment.

    Raises:
        RuntimeError: it breaks a bound of its problem.
    """
    certificate = certify(problem, taken, Prices())
    if certificate.violations:
        raise RuntimeError(f"{name}: {certificate.violations[0].says}")
    somewhere, load = problem.allowed_per_token > 0, taken.load
    return {
        "method": name,
        "capacity": C,
        "value": float(certificate.value),
        "dropped": int((taken.dropped & somewhere).sum()),
        "tokens": int(somewhere.sum()),
        "pairs": int(load.sum()),
        "max_load": int(load.max()),
        "seconds": seconds,
    }


class Holds(NamedTuple):
    """The capacities at which the optimum of all layers holds a value.

    Attributes:
        value: which.
        needed: with fewer slots an expert no assignment is worth that much; proved by prices.
        enough: with this many an assignment that is worth it is known.
    """

    value: float
    needed: int
    enough: int


@dataclass(frozen=True)
class MethodRow:
    """One method at one factor, all layers together.

    Attributes:
        factor: None for the balanced optimum, which has none.
        capacity: slots of an expert.
        method: one of `METHODS`.
        value: sum of scores; None where some layer has no assignment.
        kept: the same as a share of the value without a capacity.
        dropped: share of the tokens that reach no expert.
        pairs_dropped: share of the k pairs of every token that are not taken.
        max_over_mean: largest load over mean load, of the layer where it is largest.
        price: mean shadow price of a slot over experts and layers, in scores; None but for the
            optimum.
        seconds: of one layer, on average.
        holds: where the optimum is worth as much; None without a value.
        why: why there is no value; "" where there is.
    """

    factor: float | None
    capacity: int
    method: str
    value: float | None = None
    kept: float | None = None
    dropped: float | None = None
    pairs_dropped: float | None = None
    max_over_mean: float | None = None
    price: float | None = None
    seconds: float | None = None
    holds: Holds | None = None
    why: str = ""


@dataclass(frozen=True, eq=False)
class Decision:
    """The answer.

    Attributes:
        settings: what was asked.
        shape: layers, tokens and experts.
        free: the value without a capacity, of all layers: each token's k best experts.
        rows: each method at each factor.
        target: where the optimum holds `settings.keep` of it.
        reference: dropping by score, at the least factor that keeps so much, else at the largest.
        curve: capacities solved, values attained and bounds proved, of all layers together.
        by_layer: rows of each layer as JSON values.
    """

    settings: DecideSettings
    shape: tuple[int, int, int]
    free: float
    rows: Sequence[MethodRow]
    target: Holds
    reference: MethodRow
    curve: "TotalCurve"
    by_layer: Sequence[dict[str, Any]]

    def factor(self, C: int) -> float:
        """Capacity relative to an equal share."""
        _, T, E = self.shape
        return C * E / (T * self.settings.k)

    def least(self, method: str) -> MethodRow | None:
        """The row of the least of the factors at which a method keeps enough."""
        rows = [row for row in self.rows if row.method == method and row.factor is not None]
        return next((row for row in rows if (row.kept or 0.0) >= self.settings.keep), None)


@dataclass(frozen=True, eq=False)
class TotalCurve:
    """Value over the capacity of all layers together, at 0, 1, ..., M slots an expert.

    Attributes:
        values: float64 (M + 1,), attained.
        bounds: float64 (M + 1,), proved.
        points: the curve at the capacities that were solved in all layers; None where unknown.
    """

    values: Tensor
    bounds: Tensor
    points: CertifiedCurve | None = None

    def holds(self, value: float) -> Holds:
        """Where the optimum holds a value, at most that of M slots."""
        wanted = value - ROUNDING * abs(value)
        needed, enough = (
            min(int((side < wanted).sum()), len(side) - 1) for side in (self.bounds, self.values)
        )
        return Holds(value, needed, enough)

    def open_at(self, held: Holds) -> int | None:
        """A capacity whose optimum says most of what is open; None where nothing is."""
        if held.needed >= held.enough:
            return None
        middle = (self.values + self.bounds)[held.needed : held.enough] / 2
        return held.needed + min(int((middle < held.value).sum()), len(middle) - 1)


def total_curve(records: Sequence[Record]) -> TotalCurve:
    """The sum over layers of the curves that their points prove.

    Past its last point a layer has what token choice has.

    Args:
        records: of `layer_record`, several of one layer under its number merged.
    """
    curves = [_curve(record) for record in records]
    every = torch.arange(max(curve.last for curve in curves) + 1)
    values, bounds = torch.zeros(2, len(every), dtype=torch.float64)
    for curve in curves:
        here = every.clamp(max=curve.last)
        values += curve.value(here)
        bounds += torch.maximum(curve.bound(here), curve.value(here))
    return TotalCurve(values, bounds, _common(curves))


def _common(curves: Sequence[CertifiedCurve]) -> CertifiedCurve:
    """The sum of tangents at the budgets that all curves have; past its last a curve is flat."""
    last = max(curve.last for curve in curves)
    found = []
    for C in sorted({int(C) for curve in curves for C in curve.budgets}):
        tangents = [each for curve in curves if (each := _tangent(curve, C)) is not None]
        if len(tangents) == len(curves) and last >= C:
            value, bound, price = (sum(column) for column in zip(*tangents, strict=True))
            found.append(Point(C, value, bound, price))
    return as_curve(found)


def _tangent(curve: CertifiedCurve, C: int) -> tuple[float, float, float] | None:
    """Value, bound and price at C; None where it was not solved."""
    if curve.last <= C:
        return float(curve.values[-1]), float(curve.bounds[-1]), 0.0
    at = (curve.budgets == C).nonzero().flatten().tolist()
    if not at:
        return None
    return float(curve.values[at[0]]), float(curve.bounds[at[0]]), float(curve.prices[at[0]])


def _curve(record: Record) -> CertifiedCurve:
    ends = {int(end[0]): Point(int(end[0]), *end[1:]) for end in record["ends"]}
    inside = {int(p[0]): Point(int(p[0]), *p[1:]) for p in record["points"] if p[0] < max(ends)}
    points = inside | ends
    return as_curve([points[C] for C in sorted(points)])


def decide(
    layers: Sequence[int], shape: tuple[int, int], settings: DecideSettings, run: Run
) -> Decision:
    """Route, solve, and say what follows.

    Args:
        layers: numbers of the layers asked for.
        shape: tokens T and experts E of each.
        settings: what is asked.
        run: computes `layer_record` of each point, in their order.

    Raises:
        InputError: no pair of any layer is worth more than 0.
    """
    T, E = shape
    capacities = {f: settings.capacity(f, T, E) for f in settings.factors}

    def at(Cs: Sequence[int], rules: bool) -> Sequence[Record]:
        return run([{"layer": n, "capacities": list(Cs), "rules": rules} for n in layers])

    records = [dict(record) for record in at(sorted(set(capacities.values())), True)]
    free = sum(record["ends"][-1][1] for record in records)
    if not free > 0:
        raise InputError("no pair is worth more than 0, so there is nothing to keep.")
    rows = _total_rows(records, capacities, free, (T, E, settings.k))
    reference = _reference(rows, settings.keep)
    asked = [settings.keep * free, float(reference.value or 0.0)]
    curve = _refined(records, asked, lambda Cs: at(Cs, False))
    rows = [_with_holds(row, curve) for row in rows]
    by_layer = [
        {"layer": n, "kept": _share(row["value"], record["ends"][-1][1]), **row}
        for n, record in zip(layers, records, strict=True)
        for row in record["rows"]
    ]
    return Decision(
        settings=settings,
        shape=(len(layers), T, E),
        free=free,
        rows=rows,
        target=curve.holds(asked[0]),
        reference=_with_holds(reference, curve),
        curve=curve,
        by_layer=by_layer,
    )


def _refined(
    records: Sequence[dict[str, Any]],
    asked: Sequence[float],
    more: Callable[[Sequence[int]], Sequence[Record]],
) -> TotalCurve:
    """Solve where it says most, until the values asked for are bracketed by neighbours."""
    curve = total_curve(records)
    done: set[int] = set()
    for _ in range(MOST_ROUNDS):
        places = {curve.open_at(curve.holds(value)) for value in asked} - {None} - done
        new = sorted(C for C in places if C is not None)
        if not new:
            break
        done |= set(new)
        for record, found in zip(records, more(new), strict=True):
            record["points"] = [*record["points"], *found["points"]]
        curve = total_curve(records)
    return curve


def _total_rows(
    records: Sequence[Record],
    capacities: Mapping[float, int],
    free: float,
    sizes: tuple[int, int, int],
) -> list[MethodRow]:
    T, E, k = sizes
    asked = [(f, C, name) for f, C in capacities.items() for name in METHODS if name != BALANCED]
    found = []
    for factor, C, name in [*asked, (None, -(-T * k // E), BALANCED)]:
        same = [
            row
            for record in records
            for row in record["rows"]
            if row["method"] == name and row["capacity"] == C
        ]
        without = [row["why"] for row in same if row["value"] is None]
        if without:
            found.append(MethodRow(factor, C, name, why=without[0]))
        else:
            found.append(_total(factor, C, name, same, free, T * k, E))
    return found


def _total(
    factor: float | None,
    C: int,
    name: str,
    rows: Sequence[Record],
    free: float,
    pairs: int,
    E: int,
) -> MethodRow:
    value = sum(row["value"] for row in rows)
    prices = [row["price"] for row in rows if row.get("price") is not None]
    return MethodRow(
        factor,
        C,
        name,
        value=value,
        kept=value / free,
        dropped=sum(row["dropped"] for row in rows) / max(sum(row["tokens"] for row in rows), 1),
        pairs_dropped=1 - sum(row["pairs"] for row in rows) / (pairs * len(rows)),
        max_over_mean=max(row["max_load"] * E / max(row["pairs"], 1) for row in rows),
        price=sum(prices) / len(prices) if prices else None,
        seconds=sum(row["seconds"] for row in rows) / len(rows),
    )


def _share(value: float | None, of: float) -> float | None:
    return None if value is None or not of > 0 else value / of


def _reference(rows: Sequence[MethodRow], keep: float) -> MethodRow:
    drops = [row for row in rows if row.method == DROPS]
    return next((row for row in drops if (row.kept or 0.0) >= keep), drops[-1])


def _with_holds(row: MethodRow, curve: TotalCurve) -> MethodRow:
    if row.value is None or row.method == OPTIMUM:
        return row
    return MethodRow(**{**vars(row), "holds": curve.holds(row.value)})
