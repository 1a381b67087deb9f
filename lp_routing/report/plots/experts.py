"""An axis of experts, from 8 to 512 of them: in index order, or sorted."""

from typing import TYPE_CHECKING, Any

import numpy as np

from lp_routing.report.plots.given import Numbers, vector
from lp_routing.report.plots.style import whole_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FEW = 32
"""Up to so many experts each has its bars and its number on the axis."""


def per_expert(values: Any, what: str, E: int) -> Numbers:
    """A number for each expert, float64 (E,), from one for all or one each.

    Raises:
        InputError: another length, NaN or infinite.
    """
    if np.ndim(values) == 0:
        return np.repeat(vector([values], what, 1), E)
    return vector(values, what, E)


def expert_axis(axes: "Axes", order: Any, by: str) -> None:
    """Experts to the right: all their numbers where few, thinned beyond; ranks where sorted.

    Args:
        axes: whose places are 0 to E - 1.
        order: (E,), the expert at each place.
        by: what they are sorted by, such as "by price"; "" in index order.
    """
    E = len(order)
    axes.set_xlim(-0.6, E - 0.4)
    if E <= FEW:
        axes.set_xticks(range(E), [str(int(expert)) for expert in order])
        axes.tick_params(axis="x", length=0)
        axes.set_xlabel(f"expert {by}".rstrip())
        return
    whole_ticks(axes, "x")
    axes.set_xlabel(f"rank of the expert {by}" if by else "expert")
