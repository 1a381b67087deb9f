"""Curves of values over budgets, checked and thinned to what can be drawn."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from lp_routing.errors import InputError
from lp_routing.frontier.curves import Concave
from lp_routing.report.plots.given import Numbers, vector
from lp_routing.validation import as_tensor

MOST = 1001
"""Budgets drawn of a curve that is known at every one: more than there are dots on paper."""


class Points(Protocol):
    """Budgets at which values are proved, such as `lp_routing.frontier.Certified`.

    With `prices` and `bound(n)` they are a concave curve, joined by chords; without, samples.
    """

    @property
    def budgets(self) -> Any:
        """Whole numbers (P,), strictly rising."""

    @property
    def values(self) -> Any:
        """(P,), attained by a feasible assignment."""

    @property
    def bounds(self) -> Any:
        """(P,), proved upper bounds."""


class RouterPoints(Protocol):
    """A router at several budgets, such as `lp_routing.frontier.RouterCurve`."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def budgets(self) -> Any:
        """Numbers (P,), strictly rising."""

    @property
    def values(self) -> Any:
        """(P,), what it takes; of no meaning where a bound is broken."""

    @property
    def feasible(self) -> Any:
        """Boolean (P,), whether it keeps all bounds."""


@dataclass(frozen=True, eq=False)
class Curve:
    """What is drawn of a curve.

    Attributes:
        budgets: (P,), where something was solved; of an exact curve the breakpoints, or evenly
            spaced ones where those are too many.
        values: (P,), attained there.
        dense: (D,), budgets at which the bound is drawn.
        bounds: (D,), proved there.
        prices: (P,), a shadow price at each point; None where the steps say all, or for samples.
        joined: whether values between the budgets are attained, too (no samples).
        exact: whether value and bound are one by construction.
    """

    budgets: Numbers
    values: Numbers
    dense: Numbers
    bounds: Numbers
    prices: Numbers | None
    joined: bool
    exact: bool

    @property
    def steps(self) -> Numbers:
        """(P - 1,), what a unit adds on average from each budget to the next."""
        steps: Numbers = np.diff(self.values) / np.diff(self.budgets)
        return steps

    @property
    def attained(self) -> Numbers:
        """(D,), the values at the budgets of the bounds, on the chords."""
        attained: Numbers = np.interp(self.dense, self.budgets, self.values)
        return attained

    @property
    def widest(self) -> float:
        """The largest difference of bound and value, relative to the largest bound."""
        scale = float(np.abs(self.bounds).max()) or 1.0
        return float((self.bounds - self.attained).max()) / scale


def as_curve(given: Concave | Points) -> Curve:
    """Any curve as what is drawn of it.

    Raises:
        InputError: not a curve, no points, budgets that do not rise, NaN, lengths that differ, or a
            bound below its value.
    """
    if isinstance(given, Concave):
        return _of_concave(given)
    for field in ("budgets", "values", "bounds"):
        if not hasattr(given, field):
            raise InputError(
                f"frontier: expected a curve of lp_routing.frontier, got "
                f"{type(given).__name__} without {field}."
            )
    budgets = rising(given.budgets, "curve.budgets")
    values = vector(given.values, "curve.values", len(budgets))
    bounds = vector(given.bounds, "curve.bounds", len(budgets))
    if (bounds < values - 1e-9 * np.abs(values).max()).any():
        at = int((bounds - values).argmin())
        raise InputError(
            f"curve.bounds[{at}]={bounds[at]:g} is below the value {values[at]:g}: no bound."
        )
    if not (hasattr(given, "prices") and hasattr(given, "bound")):
        return Curve(budgets, values, budgets, bounds, None, joined=False, exact=False)
    dense = np.union1d(thinned(budgets[0], budgets[-1]), budgets)
    bound = vector(given.bound(torch.from_numpy(dense)), "curve.bound(n)", len(dense))
    prices = vector(given.prices, "curve.prices", len(budgets))
    return Curve(budgets, values, dense, bound, prices, joined=True, exact=False)


def _of_concave(curve: Concave) -> Curve:
    first = curve.first
    N = len(curve.slopes)
    changes = (curve.slopes[1:] != curve.slopes[:-1]).nonzero()[:, 0].cpu().numpy() + 1
    known = np.concatenate([[0], changes, [N]]) if N else np.zeros(1)
    places = known if len(known) <= MOST else thinned(0, N)
    values = vector(curve.values[torch.from_numpy(places).long()], "curve.values", len(places))
    budgets = (places + first).astype(np.float64)
    return Curve(budgets, values, budgets, values, None, joined=True, exact=True)


def thinned(first: float, last: float) -> Numbers:
    """Whole numbers from first to last, `MOST` of them at most, evenly spaced, ends included."""
    count = min(MOST, int(last - first) + 1)
    whole: Numbers = np.unique(np.linspace(first, last, count).round())
    return whole


def rising(values: Any, what: str) -> Numbers:
    """Numbers that rise.

    Raises:
        InputError: as `vector`, or they do not rise.
    """
    numbers = vector(values, what)
    if (np.diff(numbers) <= 0).any():
        at = int((np.diff(numbers) <= 0).argmax())
        raise InputError(f"{what}: {numbers[at]:g} is followed by {numbers[at + 1]:g}; sort them.")
    return numbers


@dataclass(frozen=True, eq=False)
class RouterDrawn:
    """A router's feasible points, and at how many budgets of all it broke a bound."""

    name: str
    budgets: Numbers
    values: Numbers
    broken: int
    tried: int


def as_router(given: RouterPoints, curve: Curve) -> RouterDrawn:
    """A router's curve as what is drawn of it.

    Raises:
        InputError: fields that are missing or do not fit, NaN where feasible, or budgets outside
            those of the curve.
    """
    for field in ("name", "budgets", "values", "feasible"):
        if not hasattr(given, field):
            raise InputError(f"routers: expected curves of routers, got one without {field}.")
    what = f"router {given.name!r}"
    budgets = rising(given.budgets, f"{what}: budgets")
    keeps = _flags(given.feasible, f"{what}: feasible", len(budgets))
    values = as_tensor(given.values, f"{what}: values", "numbers").double().cpu().numpy()
    if values.shape != budgets.shape:
        raise InputError(f"{what}: {len(budgets)} budgets, but values of shape {values.shape}.")
    low, high = curve.budgets[0], curve.budgets[-1]
    if budgets[0] < low or budgets[-1] > high:
        raise InputError(f"{what}: its budgets must be from {low:g} to {high:g}, as the curve's.")
    if keeps.any():
        vector(values[keeps], f"{what}: values")
    return RouterDrawn(given.name, budgets[keeps], values[keeps], int((~keeps).sum()), len(budgets))


def _flags(values: Any, what: str, length: int) -> NDArray[np.bool_]:
    flags = as_tensor(values, what, "booleans")
    if flags.dtype != torch.bool or tuple(flags.shape) != (length,):
        raise InputError(
            f"{what}: expected {length} booleans, got {flags.dtype} of shape {tuple(flags.shape)}."
        )
    found: NDArray[np.bool_] = flags.cpu().numpy()
    return found


def lost(router: RouterDrawn, curve: Curve) -> Numbers:
    """What a router lacks to the proved bound, in per cent of it; NaN where that is 0."""
    bounds = np.interp(router.budgets, curve.dense, curve.bounds)
    scale = np.where(bounds == 0, np.nan, np.abs(bounds))
    percent: Numbers = 100 * (bounds - router.values) / scale
    return percent
