"""Where a router and the optimum agree: a heat map of tokens and experts."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.report.plots.given import taken
from lp_routing.report.plots.heat_map import (
    MOST_COLUMNS,
    MOST_ROWS,
    Category,
    blocks,
    draw_codes,
    key_below,
)
from lp_routing.report.plots.style import house_style, label, new_figure, whole_ticks, wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NEITHER, BOTH, FIRST_ALONE, SECOND_ALONE = "#FFFFFF", "#B5D3E7", "#002B49", "#D55E00"
"""Lightness falls from white over pale blue and vermilion to near black: apart in grey, too."""


@house_style()
def assignment(
    optimal: Any,
    router: Any,
    *,
    names: tuple[str, str] = ("the optimum", "the router"),
    title: str = "",
) -> "Figure":
    """Every pair: taken by both, by the optimum alone, by the router alone, or by neither.

    Optima are not unique where scores tie: what differs is then no loss by itself.

    Args:
        optimal: an `Assignment`, a `Solution`, or amounts (T, E); a pair with any amount is taken.
        router: the same, of the same shape.
        names: what the two are called in a sentence, such as "the optimum".
        title: what the figure is of.

    Returns:
        Experts to the right, tokens downwards, in index order. Beyond 512 tokens, or 1,024
        experts, a cell stands for several pairs and shows the commonest of the pairs taken there
        (ties: the router alone, then the optimum alone, then both); the counts beside the names
        are exact. Dark, middle, pale and white remain apart in grey print.

    Raises:
        InputError: several layers, NaN, negative amounts, or shapes that differ.
    """
    first, second = taken(optimal, "optimal") > 0, taken(router, "router") > 0
    if first.shape != second.shape:
        raise InputError(
            f"assignment: expected two of the same shape (T, E), got {tuple(first.shape)} and "
            f"{tuple(second.shape)}."
        )
    members = parted(first, second)
    T, E = first.shape
    rows, columns = -(-T // MOST_ROWS), -(-E // MOST_COLUMNS)
    figure = new_figure(_height(T), title)
    axes = figure.subplots()
    categories = _categories(members, names)
    codes = commonest(blocks(members, rows, columns))
    r, c = codes.shape
    draw_codes(axes, codes.numpy(), categories, (r * rows, c * columns))
    axes.set_xlim(-0.5, E - 0.5)
    axes.set_ylim(T - 0.5, -0.5)
    axes.set_xlabel("expert")
    several = f" (a cell: {rows} tokens)" if rows > 1 else ""
    axes.set_ylabel(f"token{several}")
    for which in ("x", "y"):
        whole_ticks(axes, which)
    axes.set_title(wrapped(_finding(members, names)))
    key_below(figure, categories)
    return figure


def parted(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The pairs of the second alone, of the first alone, of both; boolean (T, E)."""
    return second & ~first, first & ~second, first & second


def commonest(cells: Tensor) -> Tensor:
    """The code of each cell: 3, 2 or 1 for the category with the most pairs, 0 without any.

    Args:
        cells: whole numbers (3, r, c), in the order of `parted`; ties go to the earlier category.
    """
    ranked = 3 * cells + torch.tensor([2, 1, 0])[:, None, None]
    return torch.where(cells.sum(0) > 0, 3 - ranked.argmax(0), 0)


def _categories(members: tuple[Tensor, ...], names: tuple[str, str]) -> list[Category]:
    """By code: neither, both, the first alone, the second alone."""
    second, first, both = (int(each.sum()) for each in members)
    neither = members[0].numel() - second - first - both
    one, other = (label(name) for name in names)
    return [
        Category(NEITHER, f"neither: {neither:,} pairs"),
        Category(BOTH, f"both: {both:,} pairs"),
        Category(FIRST_ALONE, f"{one} alone: {first:,} pairs"),
        Category(SECOND_ALONE, f"{other} alone: {second:,} pairs"),
    ]


def _finding(members: tuple[Tensor, ...], names: tuple[str, str]) -> str:
    _, first, both = (int(each.sum()) for each in members)
    if not first + both:
        return f"{label(names[0])} takes no pair"
    share = 100 * both / (first + both)
    return f"{label(names[1])} takes {share:.1f} % of the pairs that {label(names[0])} takes"


def _height(T: int) -> float:
    """Inches: a line of text for a few tokens, a page's half for many."""
    return min(6.0, max(2.6, 1.6 + 0.12 * T))
