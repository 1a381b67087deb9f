"""Value over a budget: proved values with routers, and shadow prices below.

Curves are checked first and thinned to what can be drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from lp_routing.certificate.certificate import TOLERANCE
from lp_routing.errors import InputError
from lp_routing.frontier.curves import ExactCurve
from lp_routing.report.plots._style import (
    BLACK,
    BLUE,
    PALE,
    SKY,
    Numbers,
    house_style,
    label,
    legend_below,
    looks,
    new_figure,
    plain_numbers,
    vector,
    whole_ticks,
    wrapped,
)
from lp_routing.validation import as_choice, as_float, as_int, as_list, as_tensor

MOST = 1001
"""Most budgets drawn of a curve that is known at every one: an axis has about 1,000 dots at
7 inches and 200 dots an inch.
"""


class Points(Protocol):
    """Budgets at which values are proved, such as `lp_routing.frontier.CertifiedCurve`.

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
        """Its name."""

    @property
    def budgets(self) -> Any:
        """Numbers (P,), strictly rising."""

    @property
    def values(self) -> Any:
        """(P,), of its choice; meaningless where a bound is broken."""

    @property
    def feasible(self) -> Any:
        """Boolean (P,), whether it keeps all bounds."""


@dataclass(frozen=True, eq=False)
class Curve:
    """What is drawn of a curve.

    Attributes:
        budgets: (P,), the solved ones; of an exact curve the breakpoints, or evenly spaced budgets
            where those are too many.
        values: (P,), attained there.
        dense: (D,), budgets at which the bound is drawn.
        bounds: (D,), proved there.
        prices: (P,), a shadow price at each point; None where the steps say all, or for samples.
        joined: whether values between the budgets are attained, too (no samples).
        exact: whether value and bound are equal by construction.
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


def as_curve(given: ExactCurve | Points) -> Curve:
    """Any curve as what is drawn of it.

    Raises:
        InputError: not a curve, no points, budgets that do not rise, NaN, lengths that differ, or a
            bound below its value.
    """
    if isinstance(given, ExactCurve):
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
    if (bounds < values - TOLERANCE * np.abs(values).max()).any():
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


def _of_concave(curve: ExactCurve) -> Curve:
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
    """A router's distance to the proved bound, in per cent of it; NaN where that is 0."""
    bounds = np.interp(router.budgets, curve.dense, curve.bounds)
    scale = np.where(bounds == 0, np.nan, np.abs(bounds))
    percent: Numbers = 100 * (bounds - router.values) / scale
    return percent


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AXES = {
    "total": ("total budget N [pairs]", "pair"),
    "capacity": ("capacity C of every expert [tokens]", "slot at each"),
    "k": ("experts per token K [experts]", "expert for each"),
    "experts kept": ("experts kept [experts]", "expert"),
    "layers": ("budget of all layers N [pairs]", "pair"),
}
"""Budget -> its axis label, and its unit in words."""

FACTORS = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0)
"""Capacity factors in use, which are marked; 1, 1.25, 1.5 and 2 are those of the papers."""

FEW = 60
"""Most points that are marked: the marks of more would touch."""


@house_style()
def frontier(
    curve: ExactCurve | Points,
    routers: Sequence[RouterPoints] = (),
    *,
    over: str = "total",
    title: str = "",
    in_use: int | None = None,
    share: float | None = None,
) -> "Figure":
    """Value over a budget; the routers' values and losses; shadow prices.

    Args:
        curve: exact (`ExactCurve`), certified at some budgets (`CertifiedCurve`), or
            samples with `budgets`, `values`, `bounds` alone. The band between value and bound is
            drawn where there is one; points are marked where there are at most 60.
        routers: curves of routers, with `name`, `budgets`, `values`, `feasible`. A budget at which
            a router breaks a bound has no value to compare: it is left out and counted beside the
            name.
        over: what the budget is, one of `AXES`: "total", "capacity", "k", "experts kept", "layers".
        title: what the figure is of, such as a file and a layer.
        in_use: a budget to mark by a line, such as the one the model has.
        share: pairs of an expert where loads are equal, T K / E: over capacity, a second axis then
            shows capacity factors, and lines mark those of `FACTORS`.

    Returns:
        Panels over one budget axis: value [score]; with routers, what they lose to the proved
        bound [%]; but for samples, shadow price [score / unit]: of an exact curve its slopes, else
        the mean slopes between solved budgets, and the prices there. An exact curve with more than
        1,001 breakpoints is drawn at 1,001 evenly spaced budgets.

    Raises:
        InputError: an unknown `over`; no points; NaN; lengths that differ; a bound below its
            value; routers outside the curve's budgets.
    """
    axis, unit = AXES[as_choice(over, "over", list(AXES))]
    drawn = as_curve(curve)
    others = [as_router(each, drawn) for each in as_list(routers, "routers", "curves of routers")]
    in_use = None if in_use is None else as_int(in_use, "in_use", 0)
    priced = drawn.joined and len(drawn.budgets) > 1
    heights = [3.0, *([1.5] if others else []), *([1.5] if priced else [])]
    figure = new_figure(sum(heights) + 0.9, title)
    panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)
    above, *below = panels[:, 0]
    _values(above, drawn)
    _routers(above, below[0] if below else above, drawn, others)
    if priced:
        _prices(below[-1], drawn, unit)
    for axes in (above, *below):
        plain_numbers(axes)
        axes.grid(linewidth=0.3, axis="both" if share is None else "y")
        axes.margins(x=0.02)
        if in_use is not None:
            words = f"in use: {in_use:,}" if axes is above else None
            axes.axvline(in_use, color=BLACK, linewidth=0.8, linestyle=":", label=words)
    if share is not None:
        _factors([above, *below], as_float(share, "share", "a number above 0", lambda x: x > 0))
    whole_ticks(panels[-1, 0], "x", 8)
    panels[-1, 0].set_xlabel(axis)
    legend_below(figure)
    figure.align_ylabels()
    return figure


def _factors(panels: Sequence["Axes"], share: float) -> None:
    """An axis of capacity factors on top, and lines at the usual ones."""
    low, high = panels[0].get_xlim()
    inside = [factor for factor in FACTORS if low <= factor * share <= high]
    for axes in panels:
        for factor in inside:
            axes.axvline(factor * share, color=PALE, linewidth=0.8, zorder=0)
    if inside:
        scales: Any = (lambda C: C / share, lambda factor: factor * share)
        top = panels[0].secondary_xaxis("top", functions=scales)
        top.set_xticks(inside, [f"{factor:g}" for factor in inside])
        top.set_xlabel("capacity factor")


def _values(axes: "Axes", drawn: Curve) -> None:
    """Value and bound, marked where few; samples as bars from value to bound."""
    few = len(drawn.budgets) <= FEW
    if drawn.joined:
        axes.plot(
            drawn.budgets,
            drawn.values,
            "o-" if few else "-",
            color=BLUE,
            label="optimum" if drawn.exact else "attained",
            zorder=3,
        )
    else:
        axes.plot(drawn.budgets, drawn.values, "o", color=BLUE, label="attained", zorder=3)
    if not drawn.exact:
        _bound(axes, drawn)
    axes.set_ylabel("value [score]")
    axes.set_title(wrapped(_finding(drawn)))


def _bound(axes: "Axes", drawn: Curve) -> None:
    if drawn.joined:
        axes.fill_between(
            drawn.dense,
            drawn.attained,
            drawn.bounds,
            facecolor=SKY,
            alpha=0.45,
            hatch="////",
            edgecolor=BLUE,
            linewidth=0,
            label="between value and proved bound",
        )
        axes.plot(drawn.dense, drawn.bounds, color=BLACK, linewidth=0.8, label="proved bound")
        return
    axes.vlines(drawn.budgets, drawn.values, drawn.bounds, color=BLACK, linewidth=0.8)
    axes.plot(drawn.budgets, drawn.bounds, "_", color=BLACK, markersize=8, label="proved bound")


def _routers(axes: "Axes", below: "Axes", drawn: Curve, others: Sequence[RouterDrawn]) -> None:
    """Each router's feasible points, and below, their distance to the bound."""
    for router, look in zip(others, looks(len(others)), strict=True):
        says = label(router.name)
        if router.broken:
            says += f" ({router.broken} of {router.tried} break a bound)"
        few = len(router.budgets) <= FEW
        style = {
            "color": look.color,
            "linestyle": look.line,
            "marker": look.marker if few else "",
            "markersize": 4,
            "markerfacecolor": "white",
        }
        axes.plot(router.budgets, router.values, label=says, **style)
        below.plot(router.budgets, lost(router, drawn), **style)
    if others:
        below.set_ylabel("lost to the\nbound [%]")
        low, high = below.get_ylim()
        below.set_ylim(min(0.0, low), high + 0.1 * (high - min(0.0, low)))


def _prices(axes: "Axes", drawn: Curve, unit: str) -> None:
    """What a unit adds from each budget to the next, and the proved prices at the budgets."""
    axes.stairs(
        drawn.steps,
        drawn.budgets,
        baseline=None,
        color=BLUE,
        label=None if drawn.exact else "mean shadow price between budgets",
    )
    if drawn.prices is not None and len(drawn.budgets) <= FEW:
        axes.plot(
            drawn.budgets,
            drawn.prices,
            "D",
            color=BLACK,
            fillstyle="none",
            markersize=3.5,
            label="shadow price at a solved budget",
        )
    axes.axhline(0, color=BLACK, linewidth=0.6)
    axes.set_ylabel(f"shadow price\n[score / {unit}]")


def _finding(drawn: Curve) -> str:
    if drawn.exact:
        return "Value of every budget, exact"
    what = "Value of every budget" if drawn.joined else "Value of the budgets tried"
    if drawn.widest <= TOLERANCE:
        return f"{what}, proved optimal up to rounding"
    return f"{what}, below the proved bound by at most {100 * drawn.widest:.3g} % of the most"
