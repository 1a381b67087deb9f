"""The work of `lp-routing frontier`: a curve, routers beside it and answers, as JSON values."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor

from lp_routing import frontier
from lp_routing.cli.frontier_asked import Asked
from lp_routing.cli.frontier_kept import Beside, KeptPoints
from lp_routing.cli.frontier_points import Curve, attains, ends, largest, point, points_of, span
from lp_routing.cli.frontier_routers import beside
from lp_routing.errors import InputError
from lp_routing.evaluation.compare import exact_solver
from lp_routing.frontier.curves import CertifiedCurve, ExactCurve, SharedBudget
from lp_routing.problem.named import capacity
from lp_routing.problem.problem import RoutingProblem
from lp_routing.solvers.solve import solve
from lp_routing.sweep import ResultFile
from lp_routing.sweep import asked as question

SOLVED = ("capacity", "k")
"""Budgets whose points take a solve each."""

SHARES = (0.95, 0.99)
"""Of the largest value: which budgets attain so much is told."""

COST = ("free", "constrained", "lost", "share")
CERTIFIED = ("budgets", "values", "bounds", "prices")
OWN = ("name", "budgets", "values", "feasible")
"""Attributes that become JSON values: of a cost, of a certified curve, of a router's own."""


def bought(
    layers: Sequence[int], *, logits: Tensor, asked: Asked, kept: Beside | None = None
) -> dict[str, Any]:
    """What the budgets of some layers of logits (L, T, E) buy, as JSON values.

    One layer; where `asked.over` is "layers", all that share one budget. Points that take a solve
    each are kept one by one, where a place for them is named.
    """

    given = logits[list(layers)]
    worth = asked.worth(given)
    with ExitStack() as stack:
        points = None
        if kept is not None and asked.over in SOLVED:
            task = partial(bought, logits=given, asked=asked)
            points = KeptPoints(stack.enter_context(ResultFile(kept.of(layers), question(task))))
        curve, shared = _curve(worth, asked, points)
    answers = _answers(worth, curve, asked)
    if shared is not None:
        answers |= _of_layers(shared, answers["at"])
    exact = isinstance(curve, ExactCurve)
    return {
        "points": points_of(curve, asked.points, answers["at"]),
        "largest": largest(curve),
        "breakpoints": len(curve.breakpoints()) if isinstance(curve, ExactCurve) else None,
        "between": 0.0 if isinstance(curve, ExactCurve) else curve.gap,
        "certified": None if exact else _as_json(curve, CERTIFIED),
        "routers": [
            _as_json(each, OWN) | {"bounds": [span(curve, int(n))[1] for n in each.budgets]}
            for each in beside(given, worth, curve, asked, answers["at"])
        ],
        "answers": answers,
    }


def curve_of(record: Mapping[str, Any], logits: Tensor, asked: Asked) -> Curve:
    """The curve of a record: a certified one as it was solved, an exact one of (L, T, E) again."""

    kept = record["certified"]
    if kept is None:
        return _curve(asked.worth(logits), asked)[0]
    values = {name: torch.tensor(kept[name], dtype=torch.float64) for name in kept}
    return CertifiedCurve(**{**values, "budgets": values["budgets"].long()})


def _curve(
    worth: Tensor, asked: Asked, kept: KeptPoints | None = None
) -> tuple[Curve, SharedBudget | None]:
    """What budgets buy where pairs are worth (L, T, E), and how layers share one."""

    if asked.over == "layers":
        shared = frontier.over_layers(worth)
        return shared.total, shared
    T, E = worth.shape[1:]
    if asked.over == "total":
        return frontier.over_total(RoutingProblem(worth[0])), None
    C = asked.capacity(T, E)
    around = _around(C if asked.over == "capacity" else asked.k)
    if asked.over == "capacity":
        found = frontier.over_capacity(worth[0], asked.k, points=asked.points, at=around, kept=kept)
        return found, None
    return frontier.over_k(worth[0], C, points=asked.points, at=around, kept=kept), None


def _around(n: int) -> range:
    """A budget and its neighbours, between which shadow prices are exact."""
    return range(max(n - 1, 0), n + 2)


def _answers(worth: Tensor, curve: Curve, asked: Asked) -> dict[str, Any]:
    """Which budgets attain what, what units at the budget in use are worth, what demands cost."""

    L, T, E = worth.shape
    k = asked.k
    in_use = {"total": T * k, "capacity": asked.capacity(T, E), "k": k, "layers": L * T * k}[
        asked.over
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
    if token_choice > -inf:  # else a token may not go to so many
        by = attains(curve, token_choice)
        found["token_choice"] = {"value": token_choice, "attained_by": by}
    if asked.over == "capacity" and at >= 1:
        found["expert"] = _dearest(worth[0], k, at)
    if asked.over != "layers":
        found["balance"] = _cost(lambda: frontier.cost_of_balance(worth[0], k))
        found["serving"] = _cost(lambda: frontier.cost_of_serving(worth[0], T * k))
    return found


def _cost(of: Callable[[], Any]) -> dict[str, Any]:
    """What a demand costs, or why it cannot be met."""
    try:
        cost = _as_json(of(), COST)
    except InputError as error:
        return {"cannot": str(error)}
    return cost if isfinite(cost["lost"]) else {"cannot": "there is no such assignment."}


def _dearest(worth: Tensor, k: int, C: int) -> dict[str, Any]:
    """The expert whose slots have the highest price at capacity C, and what they are worth."""

    problem = capacity(worth, k, C)
    solution = solve(problem, exact_solver(problem, 0))
    dear, best = worth.new_zeros(worth.shape[1]).double(), solution.assignment
    if solution.prices is not None and solution.prices.experts is not None:
        dear += solution.prices.experts
    if best is not None and not bool(dear.any()):  # a last slot may have been worth something
        dear += best.load == C
    expert = int(dear.argmax())
    last, more = frontier.slot_worth(problem, expert)
    return {"expert": expert, "last": float(last), "next": float(more)}


def _of_layers(shared: SharedBudget, at: int) -> dict[str, Any]:
    """Who gets the next pair, and the best split of the budget in use."""

    following = frontier.next_slot(shared, at) if at < ends(shared.total)[1] else None
    return {"next_layer": following, "split": [int(n) for n in shared.split(at).tolist()]}


def _as_json(value: Any, names: Sequence[str]) -> dict[str, Any]:
    """Some attributes, tensors as lists."""
    found = {name: getattr(value, name) for name in names}
    return {name: v.tolist() if hasattr(v, "tolist") else v for name, v in found.items()}
