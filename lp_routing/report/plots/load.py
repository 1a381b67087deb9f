"""How many tokens each expert gets, before and after."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lp_routing.errors import InputError
from lp_routing.report.plots.experts import FEW, expert_axis, per_expert
from lp_routing.report.plots.given import Numbers, loads_of
from lp_routing.report.plots.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    house_style,
    label,
    legend_below,
    new_figure,
    plain_numbers,
    wrapped,
)
from lp_routing.validation import flag

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FILLS = ((ORANGE, "////"), (BLUE, ""), (GREEN, "...."), (PURPLE, "xxxx"), (SKY, "||||"), (GREY, ""))
"""Colour and hatch of one load after the other: light and hatched before, dark and plain after."""


@house_style()
def load(
    loads: Mapping[str, Any], *, capacity: Any = None, ordered: bool = False, title: str = ""
) -> "Figure":
    """Tokens per expert: bars side by side up to 32 experts, a panel of steps each beyond.

    Args:
        loads: name -> an `Assignment`, a `Solution`, or loads (E,); of one layer, in the order to
            draw, such as `{"top-k": taken, "optimum": solution}`.
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
    order = np.argsort(-drawn[first], kind="stable") if flag(ordered, "ordered") else np.arange(E)
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
    """The line over which no load may go."""
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
