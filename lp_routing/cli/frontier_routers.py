"""The routers' own curves beside what budgets buy."""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lp_routing import frontier
from lp_routing.cli.frontier_asked import Asked
from lp_routing.cli.frontier_points import Curve, ends
from lp_routing.frontier import RouterCurve
from lp_routing.frontier.curves import ExactCurve
from lp_routing.problem.named import capacity, unified
from lp_routing.problem.problem import RoutingProblem
from lp_routing.routers import Shape, router

TRIED = 20
"""Budgets of a router's own curve, at most."""


def beside(logits: Tensor, worth: Tensor, curve: Curve, asked: Asked, at: int) -> list[RouterCurve]:
    """What routers make of some of the budgets, on logits (L, T, E) where pairs are worth so much.

    Over layers, each layer gets as many pairs as the others. Forbidden pairs end a curve early.
    The budget `at` is among them where it is one of a router's.
    """
    L, T, E = worth.shape
    if isinstance(curve, ExactCurve):
        _, last = ends(curve)
        budgets = [T * K for K in range(1, E + 1) if last >= L * T * K]
    else:
        budgets = [int(n) for n in curve.budgets if n >= 1]
    if not budgets:
        return []
    here = {at // L} if asked.over == "layers" else {at}
    tried = sorted({*budgets[:: -(-len(budgets) // TRIED)], *here & set(budgets)})
    found = [
        [_own(name, layer, values, tried, asked) for name in asked.routers]
        for layer, values in zip(logits, worth, strict=True)
    ]
    return [_summed(each) for each in zip(*found, strict=True)]


def _own(
    name: str, logits: Tensor, worth: Tensor, tried: Sequence[int], asked: Asked
) -> RouterCurve:
    """The curve of one router on logits (T, E)."""

    T, E = worth.shape

    def shape(n: int) -> Shape:
        if asked.over == "capacity":
            return Shape(asked.k, n, T, E)
        return Shape(n, asked.capacity(T, E), T, E) if asked.over == "k" else Shape(n // T, T, T, E)

    def problem(n: int) -> RoutingProblem:
        if asked.over in ("total", "layers"):
            return unified(worth, n)
        return capacity(worth, shape(n).k, shape(n).capacity)

    def make(n: int) -> Any:
        return _router(name, shape(n), asked.seed)

    found = frontier.router_curve(make, tried, problem, logits)
    return replace(found, name=name)


def _router(name: str, shape: Shape, seed: int) -> Any:
    """The router of that name, with the seed where it draws."""

    built: Any = router(name, shape)
    seeded = is_dataclass(built) and any(f.name == "seed" for f in fields(built))
    return replace(built, seed=seed) if seeded else built


def _summed(curves: Sequence[RouterCurve]) -> RouterCurve:
    """One router in several layers: budgets and values of all together."""

    first = curves[0]
    return replace(
        first,
        budgets=first.budgets * len(curves),
        values=torch.stack([each.values for each in curves]).sum(0),
        feasible=torch.stack([each.feasible for each in curves]).all(0),
    )
