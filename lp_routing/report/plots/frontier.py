"""What a budget buys: the proved value of every budget, routers beside it, shadow prices below."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lp_routing.evaluation.evaluate import ROUNDING
from lp_routing.frontier.curves import Concave
from lp_routing.report.plots.curves import (
    Curve,
    Points,
    RouterDrawn,
    RouterPoints,
    as_curve,
    as_router,
    lost,
)
from lp_routing.report.plots.style import (
    BLACK,
    BLUE,
    SKY,
    house_style,
    label,
    legend_below,
    looks,
    new_figure,
    plain_numbers,
    whole_ticks,
    wrapped,
)
from lp_routing.validation import one_of

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
"""What a budget may be -> its axis, and one unit of it in words."""

FEW = 60
"""Points are marked up to so many."""


@house_style()
def frontier(
    curve: Concave | Points,
    routers: Sequence[RouterPoints] = (),
    *,
    over: str = "total",
    title: str = "",
    in_use: int | None = None,
) -> "Figure":
    """The value of every budget; what routers make of it, and lose; the shadow prices.

    Args:
        curve: exact (`Concave`), certified at some budgets (`lp_routing.frontier.Certified`), or
            samples with `budgets`, `values`, `bounds` alone. The band between value and bound is
            drawn where there is one; points are marked where there are at most 60.
        routers: curves of routers, with `name`, `budgets`, `values`, `feasible`. A budget at which
            a router breaks a bound has no value to compare: it is left out and counted beside the
            name.
        over: what the budget is, one of `AXES`: "total", "capacity", "k", "experts kept", "layers".
        title: what the figure is of, such as a file and a layer.
        in_use: a budget to mark by a line, such as the one the model has.

    Returns:
        Panels over one budget axis: value [score]; with routers, what they lose to the proved
        bound [%]; but for samples, shadow price [score / unit]: of an exact curve its slopes, else
        the mean slopes between solved budgets, and the prices there. An exact curve with more than
        1,001 breakpoints is drawn at so many evenly spaced budgets.

    Raises:
        InputError: an unknown `over`; no points; NaN; lengths that differ; a bound below its
            value; routers outside the curve's budgets.
    """
    axis, unit = AXES[one_of(over, "over", list(AXES))]
    drawn = as_curve(curve)
    others = [as_router(router, drawn) for router in routers]
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
        axes.grid(linewidth=0.3)
        axes.margins(x=0.02)
        if in_use is not None:
            words = f"in use: {in_use:,}" if axes is above else None
            axes.axvline(in_use, color=BLACK, linewidth=0.8, linestyle=":", label=words)
    whole_ticks(panels[-1, 0], "x", 8)
    panels[-1, 0].set_xlabel(axis)
    legend_below(figure)
    figure.align_ylabels()
    return figure


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
    """Each router's feasible points, and under them what they lack to the bound."""
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
    if drawn.widest <= ROUNDING:
        return f"{what}, proved optimal up to rounding"
    return f"{what}, below the proved bound by at most {100 * drawn.widest:.3g} % of the most"
