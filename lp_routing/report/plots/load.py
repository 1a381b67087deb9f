"""Figures over experts: their loads, and their shadow prices."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lp_routing.errors import InputError
from lp_routing.report.plots._style import (
    BLACK,
    BLUE,
    FEW,
    GREEN,
    GREY,
    ORANGE,
    PALE,
    PURPLE,
    SKY,
    VERMILION,
    Numbers,
    expert_axis,
    house_style,
    label,
    legend_below,
    load_of,
    loads_of,
    new_figure,
    per_expert,
    plain_numbers,
    taken,
    wrapped,
)
from lp_routing.solvers.solve import Solution
from lp_routing.validation import as_bool

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FILLS = ((ORANGE, "////"), (BLUE, ""), (GREEN, "...."), (PURPLE, "xxxx"), (SKY, "||||"), (GREY, ""))
"""Colour and hatch of each load in turn: light and hatched first, then dark and plain."""


@house_style()
def load(
    loads: Mapping[str, Any], *, capacity: Any = None, ordered: bool = False, title: str = ""
) -> "Figure":
    """Tokens per expert: bars side by side up to 32 experts, a panel of steps each beyond.

    Args:
        loads: name -> an `Assignment`, a `Solution`, or loads (E,); of one layer, in the order to
            draw, such as `{"token-choice": taken, "optimum": solution}`.
        capacity: tokens an expert may take, a number or (E,); drawn as a line.
        ordered: experts by falling load of the first entry, ties by index, instead of by index.
        title: what the figure is of.

    Returns:
        Load [tokens] over experts; each name with its largest load over the mean.

    Raises:
        InputError: no loads, NaN, negative, several layers, or different numbers of experts.
    """
    drawn = loads_of(loads)
    first = next(iter(drawn))
    E = len(drawn[first])
    limits = None if capacity is None else per_expert(capacity, "capacity", E)
    order = (
        np.argsort(-drawn[first], kind="stable") if as_bool(ordered, "ordered") else np.arange(E)
    )
    by = f"by load of {label(first)}" if ordered else ""
    drawn = {name: values[order] for name, values in drawn.items()}
    limits = None if limits is None else limits[order]
    figure = (_side_by_side if E <= FEW else _stacked)(drawn, limits, title)
    for axes in figure.axes:
        axes.set_ylabel("load [tokens]")
        axes.set_ylim(0, 1.05 * _highest(drawn, limits))
        plain_numbers(axes, "y")
    expert_axis(figure.axes[-1], order, by)
    return figure


def _side_by_side(drawn: Mapping[str, Numbers], limits: Numbers | None, title: str) -> "Figure":
    figure = new_figure(3.0, title)
    axes = figure.subplots()
    width = 0.84 / len(drawn)
    for place, (name, values) in enumerate(drawn.items()):
        left = np.arange(len(values)) - 0.42 + place * width
        color, hatch = FILLS[place % len(FILLS)]
        axes.bar(
            left,
            values,
            width,
            align="edge",
            color=color,
            hatch=hatch,
            edgecolor="white" if color == BLUE else BLACK,
            linewidth=0.4,
            label=_named(name, values),
        )
    _capacity(axes, limits)
    legend_below(figure)
    return figure


def _stacked(drawn: Mapping[str, Numbers], limits: Numbers | None, title: str) -> "Figure":
    figure = new_figure(0.8 + 1.5 * len(drawn), title)
    column = figure.subplots(len(drawn), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for place, (axes, (name, values)) in enumerate(zip(column, drawn.items(), strict=True)):
        edges = np.arange(len(values) + 1) - 0.5
        axes.stairs(values, edges, fill=True, color=FILLS[place % len(FILLS)][0])
        axes.set_title(wrapped(_named(name, values)))
        _capacity(axes, limits)
    legend_below(figure)
    return figure


def _capacity(axes: "Axes", limits: Numbers | None) -> None:
    """The line of the capacity."""
    if limits is None:
        return
    edges = np.arange(len(limits) + 1) - 0.5
    name = "capacity" if len(set(limits)) > 1 else f"capacity {limits[0]:,.10g}"
    axes.stairs(limits, edges, baseline=None, color=BLACK, linestyle="--", label=name)


def _named(name: str, values: Numbers) -> str:
    mean = values.mean()
    ratio = values.max() / mean if mean > 0 else 1.0
    return f"{label(name)}: largest {values.max():,.6g}, {ratio:.2f} times the mean"


def _highest(drawn: Mapping[str, Numbers], limits: Numbers | None) -> float:
    highest = max(float(values.max()) for values in drawn.values())
    if limits is not None:
        if not (limits >= 0).all():
            raise InputError(f"capacity: expected numbers >= 0, got {limits.min():g}.")
        highest = max(highest, float(limits.max()))
    return highest or 1.0


FULL = 1e-6
"""Tokens: a load this close to the capacity counts as full, for solvers that round."""


@house_style()
def prices(solution: Solution, *, ordered: bool = False, title: str = "") -> "Figure":
    """The shadow price of every expert's bounds, and its load, at the optimum.

    Args:
        solution: of a problem that bounds its experts, with assignment and prices.
        ordered: experts by falling price, ties by index, instead of by index.
        title: what the figure is of.

    Returns:
        Shadow price [score per slot] over experts; below, load [tokens]. Experts at capacity are
        filled, others hollow.

    Raises:
        InputError: not a solution; no prices, no assignment, or no bounds on experts.
    """
    price, load, upper = _of(solution)
    order = (
        np.argsort(-price, kind="stable") if as_bool(ordered, "ordered") else np.arange(len(price))
    )
    price, load, upper = price[order], load[order], upper[order]
    full = load >= upper - FULL
    figure = new_figure(4.4, title)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    _stems(above, price, full)
    above.axhline(0, color=BLACK, linewidth=0.6)
    above.set_ylabel("shadow price\n[score per slot]")
    above.set_title(wrapped(_finding(price, full)))
    _loads(below, load, upper, full)
    for axes in (above, below):
        plain_numbers(axes, "y")
    expert_axis(below, order, "by price" if ordered else "")
    legend_below(figure)
    return figure


def _of(solution: Solution) -> tuple[Numbers, Numbers, Numbers]:
    """Price, load and upper bound of each expert, (E,)."""
    if not isinstance(solution, Solution):
        raise InputError(
            f"prices: expected what lp_routing.solve gives, got {type(solution).__name__}."
        )
    family = solution.problem.family("expert")
    if family is None:
        raise InputError("prices: this problem has no bounds on experts, so they have no prices.")
    if not solution.prices.given:
        raise InputError(f"prices: {solution.solver} gave none ({solution.status.name}).")
    load = load_of(taken(solution, "prices"))
    price = solution.prices.of(family)
    return price.cpu().numpy(), load, family.upper.cpu().numpy()


def _stems(axes: "Axes", price: Numbers, full: Any) -> None:
    """A stem for each expert, filled where it is full."""
    size = 5.0 if len(price) <= FEW else 3.5 if len(price) <= 128 else 2.2
    places = np.arange(len(price))
    for where, name, fill in ((full, "at capacity", BLUE), (~full, "below capacity", "white")):
        color = BLUE if fill == BLUE else VERMILION
        axes.vlines(places[where], 0, price[where], color=color, linewidth=min(1.4, size / 4))
        if where.any():
            axes.plot(
                places[where],
                price[where],
                "o" if fill == BLUE else "s",
                markersize=size,
                color=color,
                markerfacecolor=fill,
                markeredgewidth=0.8,
                label=f"{name}: {int(where.sum())}",
            )


def _loads(axes: "Axes", load: Numbers, upper: Numbers, full: Any) -> None:
    """Loads, filled where the expert is full, and the capacity line."""
    edges = np.arange(len(load) + 1) - 0.5
    if len(load) <= FEW:
        colors = np.where(full, BLUE, PALE)
        axes.bar(np.arange(len(load)), load, 0.8, color=colors, edgecolor=BLACK, linewidth=0.6)
    else:
        for where, color in ((full, BLUE), (~full, PALE)):
            axes.stairs(np.where(where, load, 0), edges, fill=True, color=color)
    if np.isfinite(upper).any():
        line = np.where(np.isfinite(upper), upper, np.nan)
        axes.stairs(
            line, edges, baseline=None, color=BLACK, linestyle="--", linewidth=1, label="capacity"
        )
    axes.set_ylim(0, 1.1 * max(load.max(), upper[np.isfinite(upper)].max(initial=0)) or 1.0)
    axes.set_ylabel("load [tokens]")


def _finding(price: Numbers, full: Any) -> str:
    says = f"{int(full.sum())} of {len(price)} experts are full"
    if not (price > 0).any():
        return f"{says}; no slot more is worth anything"
    highest = int(price.argmax())
    return f"{says}; the dearest slot is worth {price[highest]:.4g}"
