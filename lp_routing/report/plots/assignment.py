"""Figures over tokens: where a router and the optimum agree, and causality."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lp_routing.audits.causality import CausalityMap
from lp_routing.errors import InputError
from lp_routing.report.plots._style import (
    MOST_COLUMNS,
    MOST_ROWS,
    Category,
    blocks,
    draw_codes,
    house_style,
    key_below,
    label,
    new_figure,
    taken,
    whole_ticks,
    wrapped,
)
from lp_routing.validation import as_list

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NEITHER, BOTH, FIRST_ALONE, SECOND_ALONE = "#FFFFFF", "#B5D3E7", "#002B49", "#D55E00"
"""Lightness falls from white over pale blue and vermilion to near black: distinct in grey, too."""


@house_style()
def assignment(
    optimal: Any,
    router: Any,
    *,
    names: tuple[str, str] = ("the optimum", "the router"),
    title: str = "",
) -> "Figure":
    """Every pair: taken by both, by the optimum alone, by the router alone, or by neither.

    Optima are not unique where scores tie: a difference is then not always a loss.

    Args:
        optimal: an `Assignment`, a `Solution`, or amounts (T, E); a pair with any amount is taken.
        router: the same, of the same shape.
        names: what the two are called in a sentence, such as "the optimum".
        title: what the figure is of.

    Returns:
        Experts to the right, tokens downwards, in index order. Beyond 512 tokens, or 1,024
        experts, a cell stands for several pairs and shows the commonest of the pairs taken there
        (ties: the router alone, then the optimum alone, then both); the counts beside the names
        are exact. The four colours differ in grey print.

    Raises:
        InputError: several layers, NaN, negative amounts, or shapes that differ.
    """
    called = as_list(names, "names", "two names")
    if len(called) != 2 or not all(isinstance(name, str) for name in called):
        raise InputError(f"names={names!r}: expected two names.")
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
    axes.set_title(wrapped(_agreement_in_words(members, names)))
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


def _agreement_in_words(members: tuple[Tensor, ...], names: tuple[str, str]) -> str:
    _, first, both = (int(each.sum()) for each in members)
    if not first + both:
        return f"{label(names[0])} takes no pair"
    share = 100 * both / (first + both)
    return f"{label(names[1])} takes {share:.1f} % of the pairs that {label(names[0])} takes"


def _height(T: int) -> float:
    """Inches: the height of a text line for each token, up to half a page."""
    return min(6.0, max(2.6, 1.6 + 0.12 * T))


NOT_YET, SAME, CHANGED = "#FFFFFF", "#CFE0EC", "#8A2F00"
"""White, pale and dark: distinct in grey, too."""


@house_style()
def causality(changes: CausalityMap, *, name: str = "router", title: str = "") -> "Figure":
    """Token by token: did its experts change when the sequence grew?

    Args:
        changes: of `lp_routing.audits.causality_map`.
        name: of the router.
        title: what the figure is of.

    Returns:
        Tokens to the right, growing sequence downwards: a row compares the routing of two
        consecutive prefixes. Beyond 1,024 tokens, or 512 rows, a cell stands for several and is
        dark where any of them changed; the count in the title is exact.

    Raises:
        InputError: not a map.
    """
    if not isinstance(changes, CausalityMap):
        raise InputError(
            f"causality: expected what lp_routing.audits.causality_map gives, got "
            f"{type(changes).__name__}."
        )
    changed, asked = changes.changed.cpu(), changes.asked.cpu()
    P, T = changed.shape
    rows, columns = -(-P // MOST_ROWS), -(-T // MOST_COLUMNS)
    there, dark = blocks([asked, changed], rows, columns) > 0
    codes = torch.where(dark, 2, torch.where(there, 1, 0)).numpy()
    r, c = codes.shape
    figure = new_figure(4.4, title)
    axes = figure.subplots()
    categories = [
        Category(NOT_YET, "not come yet, or just come"),
        Category(SAME, "keeps its experts"),
        Category(CHANGED, "changes experts"),
    ]
    draw_codes(axes, codes, categories, (r * rows, c * columns))
    axes.set_xlim(-0.5, T - 0.5)
    axes.set_ylim(P - 0.5, -0.5)
    whole_ticks(axes, "x")
    several = f" (a cell: {columns} tokens)" if columns > 1 else ""
    axes.set_xlabel(f"token{several}")
    _lengths(axes, changes.lengths.cpu().numpy())
    axes.set_title(wrapped(_changed_in_words(changes, label(name))))
    key_below(figure, categories)
    return figure


def _lengths(axes: "Axes", lengths: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> None:
    """At most nine rows get their length, the first and the last among them."""
    rows = len(lengths) - 1
    ticks = np.unique(np.linspace(0, rows - 1, min(rows, 9)).round().astype(int))
    axes.set_yticks(ticks, [f"{int(lengths[row + 1]):,}" for row in ticks])
    axes.set_ylabel("length of the grown sequence [tokens]")


def _changed_in_words(changes: CausalityMap, name: str) -> str:
    """Counts, of this sequence at these lengths; the audit of causality has the share of all."""
    changed, asked = int(changes.changed.any(0).sum()), int(changes.asked.any(0).sum())
    if not changed:
        return f"{name}: no token of this sequence changes experts as it grows"
    return f"{name}: {changed:,} of {asked:,} tokens of this sequence change experts as it grows"
