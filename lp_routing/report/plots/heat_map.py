"""Categories of many rows and columns as an image, and the key that says how many there are."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lp_routing.report.plots.style import BLACK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_ROWS, MOST_COLUMNS = 512, 1024
"""Cells that can be told apart on paper at the size of the figures here."""

Codes = NDArray[np.int64]


class Category(NamedTuple):
    """What a cell may be: its colour, and its name in the key."""

    color: str
    name: str


def blocks(members: Sequence[Tensor], rows: int, columns: int) -> Tensor:
    """How many entries of each category lie in each cell, whole numbers (categories, r, c).

    Args:
        members: of each category, boolean (R, C).
        rows: entries that share a cell, downwards; the last cell may have fewer.
        columns: the same to the right.
    """
    stacked = torch.stack([each.cpu() for each in members])
    count, R, C = stacked.shape
    r, c = -(-R // rows), -(-C // columns)
    padded = torch.zeros(count, r * rows, c * columns, dtype=torch.bool)
    padded[:, :R, :C] = stacked
    return padded.view(count, r, rows, c, columns).sum((2, 4))


def draw_codes(
    axes: "Axes", codes: Codes, categories: Sequence[Category], reach: tuple[int, int]
) -> None:
    """Cells as an image in the colours of their categories.

    Args:
        axes: where.
        codes: (r, c), positions in `categories`.
        categories: what the codes mean.
        reach: entries downwards and to the right that the cells stand for, the last ones in full.
    """
    from matplotlib.colors import ListedColormap

    axes.imshow(
        codes,
        cmap=ListedColormap([category.color for category in categories]),
        vmin=-0.5,
        vmax=len(categories) - 0.5,
        aspect="auto",
        interpolation="none",  # cells stay cells in files that are scaled by their reader
        extent=(-0.5, reach[1] - 0.5, reach[0] - 0.5, -0.5),
    )
    for side in ("top", "right"):
        axes.spines[side].set_visible(True)


def key_below(figure: "Figure", categories: Sequence[Category]) -> None:
    """A patch for each category, with its name."""
    from matplotlib.patches import Patch

    patches: list[Any] = [
        Patch(facecolor=each.color, edgecolor=BLACK, linewidth=0.5, label=each.name)
        for each in categories
    ]
    figure.legend(handles=patches, loc="outside lower left", ncols=2, borderaxespad=0.2)
