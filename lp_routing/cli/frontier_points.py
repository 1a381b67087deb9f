"""Curves as rows of a table: budgets that tell much, their values, what a unit is worth there."""

from typing import Any, TypeAlias

import torch

from lp_routing.frontier.curves import CertifiedCurve, ExactCurve

Curve: TypeAlias = ExactCurve | CertifiedCurve
"""Known at every whole budget, or solved at some and bounded between them."""

Interval = list[float]
"""A number that is known, twice; or the least and the most that it can be."""


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
    """What one unit on top of n adds: the least and the most that the proofs allow."""
    if isinstance(curve, ExactCurve):
        return [float(curve.right(n))] * 2
    return [float(side) for side in curve.right(n)]


def attains(curve: Curve, value: float) -> list[int | None] | None:
    """The smallest budget that attains a value: one surely needed, and one surely enough.

    None where surely none attains it; the second is None where none is known to. A share of 1e-12
    is forgiven, for rounding.
    """
    wanted = value - 1e-12 * abs(value)
    if isinstance(curve, ExactCurve):
        found = curve.smallest(wanted)
        return None if found is None else [found, found]
    enough, needed = curve.smallest(wanted)
    return None if needed is None else [needed, enough]
