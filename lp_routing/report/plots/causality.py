"""Which earlier tokens change experts when later ones come."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from lp_routing.audits.causality import CausalityMap
from lp_routing.errors import InputError
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
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NOT_YET, SAME, CHANGED = "#FFFFFF", "#CFE0EC", "#8A2F00"
"""White, pale and dark: apart in grey, too."""


@house_style()
def causality(changes: CausalityMap, *, name: str = "router", title: str = "") -> "Figure":
    """Token by token: did its experts change when the sequence grew?

    Args:
        changes: of `lp_routing.audits.causality_map`.
        name: of the router.
        title: what the figure is of.

    Returns:
        Tokens to the right, growing sequence downwards: a row compares the routing before and
        after some tokens came. Beyond 1,024 tokens, or 512 rows, a cell stands for several and is
        dark where any of them changed; the shares beside the names are exact.

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
    categories = _categories(int(asked.sum()), int(changed.sum()))
    draw_codes(axes, codes, categories, (r * rows, c * columns))
    axes.set_xlim(-0.5, T - 0.5)
    axes.set_ylim(P - 0.5, -0.5)
    whole_ticks(axes, "x")
    several = f" (a cell: {columns} tokens)" if columns > 1 else ""
    axes.set_xlabel(f"token{several}")
    _lengths(axes, changes.lengths.cpu().numpy())
    axes.set_title(wrapped(_finding(changes, label(name))))
    key_below(figure, categories)
    return figure


def _lengths(axes: "Axes", lengths: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> None:
    """At most nine rows get their length, the first and the last among them."""
    rows = len(lengths) - 1
    ticks = np.unique(np.linspace(0, rows - 1, min(rows, 9)).round().astype(int))
    axes.set_yticks(ticks, [f"{int(lengths[row + 1]):,}" for row in ticks])
    axes.set_ylabel("length of the grown sequence [tokens]")


def _categories(asked: int, changed: int) -> list[Category]:
    share = 100 * changed / max(1, asked)
    return [
        Category(NOT_YET, "not come yet, or just come"),
        Category(SAME, f"keeps its experts: {100 - share:.1f} %"),
        Category(CHANGED, f"changes experts: {share:.1f} %"),
    ]


def _finding(changes: CausalityMap, name: str) -> str:
    if not bool(changes.changed.any()):
        return f"{name}: no token changes experts when later ones come"
    return (
        f"{name}: at least {100 * changes.share:.1f} % of the tokens change experts when later "
        f"ones come"
    )
