"""A summary of a frontier as JSON values: points of the curve, routers, and answers to questions.

`summary` is what `lp-routing frontier` computes for each layer, or for all layers that share one
budget; `FrontierSettings` says how. `PointStore` keeps solved points in a file, so that a run that
is killed within a layer loses only the point it was solving.
"""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from math import inf, isfinite
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lp_routing import scores
from lp_routing.certificate.violations import ROUNDING
from lp_routing.errors import InputError
from lp_routing.frontier.budgets import over_capacity, over_k, over_total
from lp_routing.frontier.curves import CertifiedCurve, ExactCurve, SharedBudget
from lp_routing.frontier.layers import over_layers
from lp_routing.frontier.questions import (
    RouterCurve,
    cost_of_balance,
    cost_of_serving,
    next_slot,
    router_curve,
    slot_worth,
)
from lp_routing.frontier.refine import Point
from lp_routing.problem.named import capacity, unified
from lp_routing.problem.problem import RoutingProblem
from lp_routing.routers import CapacityFactor, Shape, router
from lp_routing.sweep import ResultFile, asked
from lp_routing.validation import as_int

Curve: TypeAlias = ExactCurve | CertifiedCurve
"""Exact at every whole budget, or solved at some and bounded between them."""

Interval = list[float]
"""Lower and upper bound on a number; the same number twice where it is known."""

SOLVED = ("capacity", "k")
"""Budgets whose points each need a solve."""

SHARES = (0.95, 0.99)
"""Shares of the largest value for which the smallest budget is given."""

TRIED = 20
"""Most budgets at which a router is called: more give a smoother curve, in more time.

Over the total on layer 0 of the sample, judged: `prices` 0.16 s with 10, 0.30 s with 20, 0.77 s
with 40; `token-choice` 0.09, 0.18 and 0.32 s (processor time of `router_curves`).
"""

COST = ("free", "constrained", "lost", "share")
CERTIFIED = ("budgets", "values", "bounds", "prices")
ROUTER = ("name", "budgets", "values", "feasible")
"""Attributes that become JSON values: of a cost, of a certified curve, of a router's curve."""


@dataclass(frozen=True)
class FrontierSettings:
    """What is asked of every layer, or of all layers that share a budget.

    Attributes:
        over: "total", "capacity", "k" or "layers".
        k: experts per token.
        capacity_factor: of the capacity that is fixed (over k), or examined (over capacity).
        score: name of the function from logits to what a pair is worth.
        points: how many budgets are solved or shown; None for every one.
        factors: over capacity, the capacity factors that are solved in place of `points`; else ().
        routers: names of the catalogue whose curves are drawn beside the optimum.
        seed: of routers that draw at random.
    """

    over: str
    k: int
    capacity_factor: float
    score: str
    points: int | None
    routers: tuple[str, ...]
    seed: int
    factors: tuple[float, ...] = ()

    def worth(self, logits: Tensor) -> Tensor:
        """The scores, of the shape of the logits."""
        return scores.named(self.score)(logits, None)

    def capacity(self, T: int, E: int) -> int:
        """Tokens an expert at the capacity factor, T at most."""
        return self.capacity_at(self.capacity_factor, T, E)

    def capacity_at(self, factor: float, T: int, E: int) -> int:
        """Tokens an expert at another factor, T at most."""
        return min(CapacityFactor(factor).of(T, E, self.k), T)

    def share(self, T: int, E: int) -> float | None:
        """Over capacity, the pairs of an expert where loads are equal; else None."""
        return T * self.k / E if self.over == "capacity" else None

    def check(self, logits: Tensor) -> None:
        """Raise `InputError` where the settings do not fit logits (L, T, E)."""
        _, T, E = logits.shape
        as_int(self.k, "k", 1, E, "E, the number of experts")
        self.capacity(T, E)


def summary(
    layers: Sequence[int],
    *,
    logits: Tensor,
    settings: FrontierSettings,
    records: Path | None = None,
) -> dict[str, Any]:
    """The curve of some layers over the budget, and answers, as JSON values.

    Args:
        layers: one; where `settings.over` is "layers", all that share one budget.
        logits: (L, T, E) of all layers of the file.
        settings: what is asked.
        records: the file of summaries, where there is one; points that take a solve each are kept
            beside it one by one, in `points_file`.
    """
    given = logits[list(layers)]
    worth = settings.worth(given)
    with ExitStack() as stack:
        points: MutableMapping[int, Point] = {}
        if records is not None and settings.over in SOLVED:
            question = asked(partial(summary, logits=given, settings=settings))
            file = ResultFile(points_file(records, layers), question)
            points = PointStore(stack.enter_context(file))
        curve, shared = _curve(worth, settings, points)
    answers = _answers(worth, curve, settings, points)
    if shared is not None:
        answers |= _of_layers(shared, answers["at"])
    exact = isinstance(curve, ExactCurve)
    return {
        "share": settings.share(*worth.shape[1:]),
        "points": points_of(curve, settings.points, answers["at"]),
        "largest": largest(curve),
        "breakpoints": len(curve.breakpoints()) if isinstance(curve, ExactCurve) else None,
        "between": 0.0 if isinstance(curve, ExactCurve) else curve.gap,
        "certified": None if exact else _as_json(curve, CERTIFIED),
        "routers": [
            _as_json(each, ROUTER) | {"bounds": [span(curve, int(n))[1] for n in each.budgets]}
            for each in router_curves(given, worth, curve, settings, answers["at"])
        ],
        "answers": answers,
    }


def curve_of(record: Mapping[str, Any], logits: Tensor, settings: FrontierSettings) -> Curve:
    """The curve of a record: a certified one as stored, an exact one recomputed from the logits."""
    kept = record["certified"]
    if kept is None:
        return _curve(settings.worth(logits), settings)[0]
    values = {name: torch.tensor(kept[name], dtype=torch.float64) for name in kept}
    return CertifiedCurve(**{**values, "budgets": values["budgets"].long()})


def _curve(
    worth: Tensor, settings: FrontierSettings, kept: MutableMapping[int, Point] | None = None
) -> tuple[Curve, SharedBudget | None]:
    """The curve on scores (L, T, E), and the split where layers share a budget."""
    if settings.over == "layers":
        shared = over_layers(worth)
        return shared.total, shared
    T, E = worth.shape[1:]
    if settings.over == "total":
        return over_total(RoutingProblem(worth[0])), None
    C = settings.capacity(T, E)
    around = _around(C if settings.over == "capacity" else settings.k)
    if settings.over == "capacity":
        return _over_capacity(worth[0], settings, around, kept), None
    return over_k(worth[0], C, points=settings.points, at=around, kept=kept), None


def _over_capacity(
    worth: Tensor,
    settings: FrontierSettings,
    around: Sequence[int],
    kept: MutableMapping[int, Point] | None,
) -> CertifiedCurve:
    """At evenly chosen capacities; or at the factors asked for, from the least of them on."""
    asked = [settings.capacity_at(factor, *worth.shape) for factor in settings.factors]
    points = 2 if asked else settings.points  # the ends need no solve
    found = over_capacity(worth, settings.k, points=points, at=[*around, *asked], kept=kept)
    return found.since(min([*around, *asked])) if asked else found


def _around(n: int) -> range:
    """A budget and its neighbours, between which shadow prices are exact."""
    return range(max(n - 1, 0), n + 2)


def _answers(
    worth: Tensor, curve: Curve, settings: FrontierSettings, solved: Mapping[int, Point]
) -> dict[str, Any]:
    """Budgets that attain some values, shadow prices, and the cost of balance and serving."""
    L, T, E = worth.shape
    k = settings.k
    in_use = {"total": T * k, "capacity": settings.capacity(T, E), "k": k, "layers": L * T * k}[
        settings.over
    ]
    first, last = ends(curve)
    at, most = min(max(in_use, first), last), largest(curve)
    token_choice = float(worth.double().topk(k).values.sum())
    found: dict[str, Any] = {
        "in_use": in_use,
        "at": at,
        "there": point(curve, at),
        "token_choice": None,
        "shares": {f"{share:g}": attains(curve, share * most) for share in SHARES if most > 0},
    }
    if token_choice > -inf:  # else some token may not go to k experts
        by = attains(curve, token_choice)
        found["token_choice"] = {"value": token_choice, "attained_by": by}
    if settings.over == "capacity" and at >= 1:
        prices = solved[at].experts if at in solved else ()
        found["expert"] = _highest_price(worth[0], k, at, found["there"]["value"], prices)
    if settings.over != "layers":
        found["balance"] = _cost(lambda: cost_of_balance(worth[0], k))
        found["serving"] = _cost(lambda: cost_of_serving(worth[0], T * k))
    return found


def _cost(of: Callable[[], Any]) -> dict[str, Any]:
    """The cost of a constraint, or why it cannot be met."""
    try:
        cost = _as_json(of(), COST)
    except InputError as error:
        return {"cannot": str(error)}
    return cost if isfinite(cost["lost"]) else {"cannot": "there is no such assignment."}


def _highest_price(
    worth: Tensor, k: int, C: int, value: float, prices: Sequence[float]
) -> dict[str, Any]:
    """The expert whose slots have the highest price at capacity C, and what they are worth.

    Where all prices are 0 token choice is an optimum: its busiest expert, whose last slot may still
    have a value.
    """
    dear = torch.tensor(prices)
    if not dear.any():
        best = worth.topk(k)
        dear = torch.bincount(best.indices[best.values > 0], minlength=worth.shape[1])
    expert = int(dear.argmax())
    last, more = slot_worth(capacity(worth, k, C), expert, value=value)
    return {"expert": expert, "last": float(last), "next": float(more)}


def _of_layers(shared: SharedBudget, at: int) -> dict[str, Any]:
    """The layer that gets the next pair, and the best split of the budget in use."""
    following = next_slot(shared, at) if at < ends(shared.total)[1] else None
    return {"next_layer": following, "split": [int(n) for n in shared.split(at).tolist()]}


def _as_json(value: Any, names: Sequence[str]) -> dict[str, Any]:
    """Some attributes, tensors as lists."""
    found = {name: getattr(value, name) for name in names}
    return {name: v.tolist() if hasattr(v, "tolist") else v for name, v in found.items()}


def ends(curve: Curve) -> tuple[int, int]:
    """The smallest and the largest budget."""
    if isinstance(curve, ExactCurve):
        return curve.first, curve.first + len(curve.slopes)
    return int(curve.budgets[0]), int(curve.budgets[-1])


def largest(curve: Curve) -> float:
    """The value of the budget that is worth most."""
    return float(curve.values.max())


def points_of(curve: Curve, count: int | None, mark: int) -> list[dict[str, Any]]:
    """Rows for a table and for files, with one at the budget `mark`.

    Of an exact curve `count` budgets that are evenly spaced in value, as far as it rises, or all
    its breakpoints; of a certified one, those that were solved.
    """
    first, last = ends(curve)
    if not isinstance(curve, ExactCurve):
        chosen = curve.budgets.tolist()
    else:
        chosen = curve.breakpoints().tolist() if count is None else _spread(curve, count)
    budgets = {int(n) for n in chosen} | {min(max(mark, first), last)}
    return [point(curve, n) for n in sorted(budgets)]


def _spread(curve: ExactCurve, count: int) -> list[int]:
    """The smallest budgets that attain evenly spaced values, and the last."""
    rising = curve.values[: int((curve.slopes > 0).sum()) + 1]
    targets = torch.linspace(float(rising[0]), float(rising[-1]), count, dtype=torch.float64)
    places = torch.searchsorted(rising, targets.to(rising)).clamp(max=len(rising) - 1)
    return [*(places + curve.first).tolist(), ends(curve)[1]]


def point(curve: Curve, n: int) -> dict[str, Any]:
    """Value and bound of a budget, what its last unit adds, and what one more would."""
    first, last = ends(curve)
    value, bound = span(curve, n)
    return {
        "budget": n,
        "value": value,
        "bound": bound,
        "last": _adds(curve, n - 1) if n > first else None,
        "next": _adds(curve, n) if n < last else None,
    }


def span(curve: Curve, n: int) -> tuple[float, float]:
    """What budget n attains, and its proved bound."""
    value = float(curve.value(n))
    return value, value if isinstance(curve, ExactCurve) else float(curve.bound(n))


def _adds(curve: Curve, n: int) -> Interval:
    """Bounds on what one more unit adds at n."""
    if isinstance(curve, ExactCurve):
        return [float(curve.right(n))] * 2
    return [float(side) for side in curve.right(n)]


def attains(curve: Curve, value: float) -> list[int | None] | None:
    """The smallest budget that attains a value: one surely needed, and one surely enough.

    None where surely none attains it; the second is None where none is known to. Values may be
    short by `ROUNDING`.
    """
    wanted = value - ROUNDING * abs(value)
    if isinstance(curve, ExactCurve):
        found = curve.smallest(wanted)
        return None if found is None else [found, found]
    enough, needed = curve.smallest(wanted)
    return None if needed is None else [needed, enough]


def router_curves(
    logits: Tensor, worth: Tensor, curve: Curve, settings: FrontierSettings, at: int
) -> list[RouterCurve]:
    """The values that routers reach at some of the budgets.

    Over layers, all layers get equally many pairs. Forbidden pairs end a curve early. The budget
    `at` is included where a router has it.
    """
    L, T, E = worth.shape
    if isinstance(curve, ExactCurve):
        _, last = ends(curve)
        budgets = [T * K for K in range(1, E + 1) if last >= L * T * K]
    else:
        budgets = [int(n) for n in curve.budgets if n >= 1]
    if not budgets:
        return []
    here = {at // L} if settings.over == "layers" else {at}
    tried = sorted({*budgets[:: -(-len(budgets) // TRIED)], *here & set(budgets)})
    found = [
        [catalogue_curve(name, layer, values, tried, settings) for name in settings.routers]
        for layer, values in zip(logits, worth, strict=True)
    ]
    return [_summed(each) for each in zip(*found, strict=True)]


def catalogue_curve(
    name: str, logits: Tensor, worth: Tensor, tried: Sequence[int], settings: FrontierSettings
) -> RouterCurve:
    """The values that a router of the catalogue reaches at some budgets.

    Args:
        name: of the router.
        logits: (T, E), with which it is called.
        worth: (T, E), what pairs are worth.
        tried: the budgets.
        settings: the rest of its problem and shape.

    Raises:
        InputError: an unknown name, or a shape that it cannot be built for.
    """
    T, E = worth.shape

    def shape(n: int) -> Shape:
        if settings.over == "capacity":
            return Shape(settings.k, n, T, E)
        return (
            Shape(n, settings.capacity(T, E), T, E)
            if settings.over == "k"
            else Shape(n // T, T, T, E)
        )

    def problem(n: int) -> RoutingProblem:
        if settings.over in ("total", "layers"):
            return unified(worth, n)
        return capacity(worth, shape(n).k, shape(n).capacity)

    def make(n: int) -> Any:
        return router(name, shape(n), seed=settings.seed)

    found = router_curve(make, tried, problem, logits)
    return replace(found, name=name)


def _summed(curves: Sequence[RouterCurve]) -> RouterCurve:
    """One router in several layers: budgets and values of all together."""
    first = curves[0]
    return replace(
        first,
        budgets=first.budgets * len(curves),
        values=torch.stack([each.values for each in curves]).sum(0),
        feasible=torch.stack([each.feasible for each in curves]).all(0),
    )


def points_file(records: Path, layers: Sequence[int]) -> Path:
    """Where the solved points of some layers are kept: beside the file of records."""
    return records.with_name(f"{records.name}.{'-'.join(map(str, layers))}.points")


class PointStore(dict[int, Point]):
    """Points by budget; each that is set is written to its file at once.

    Args:
        file: open as long as points are set.

    Raises:
        InputError: a line of the file that is no point.
    """

    def __init__(self, file: ResultFile) -> None:
        super().__init__()
        self.file = file
        for number, line in enumerate(file.lines, 2):
            values: dict[str, Any] = {name: line.get(name) for name in Point._fields}
            experts = values.pop("experts")
            known = [*values.values(), *experts] if isinstance(experts, list) else [None]
            if not all(isinstance(value, int | float) for value in known):
                raise InputError(f"{file.path}: line {number} holds no point; take it out.")
            super().__setitem__(values["budget"], Point(**values, experts=experts))

    def __setitem__(self, budget: int, point: Point) -> None:
        self.file.append(point._asdict())
        super().__setitem__(budget, point)
