"""What the answer to a related problem is, and the one call to HiGHS for whole numbers."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.validation import share

Vector = np.ndarray[Any, np.dtype[np.float64]]

BY_LP, BY_SEARCH = "linear program (HiGHS)", "branch and bound (HiGHS)"


@dataclass(frozen=True, eq=False)
class Proved:
    """A choice, and a proof of how good it is.

    Attributes:
        x: what is chosen, boolean, or amounts where fractions were allowed; the function that
            returns it says the shape.
        value: what the choice is worth, summed in float64.
        bound: no choice is worth more.
        ended: what value and bound rest on, in words.
    """

    x: Tensor
    value: float
    bound: float
    ended: str

    @property
    def gap(self) -> float:
        """Bound - value; up to rounding >= 0, and 0 where the choice is proved best."""
        return self.bound - self.value

    @property
    def relative_gap(self) -> float:
        """Gap over |bound|; 0 where both are 0."""
        return self.gap / abs(self.bound) if self.bound else self.gap


class NothingFound(InputError):
    """A search ended without any choice."""


class Search(NamedTuple):
    """What HiGHS found: columns (n,), an upper bound on the value, and how it ended."""

    x: Vector
    bound: float
    ended: str


def search(
    worth: Vector,
    matrix: Any,
    lower: Vector,
    upper: Vector,
    *,
    column_upper: Vector,
    whole: Vector,
    time_limit_s: float,
) -> Search:
    """maximise worth @ x, lower <= matrix @ x <= upper, 0 <= x <= column_upper.

    Args:
        worth: (n,) finite.
        matrix: (rows, n), scipy sparse.
        lower, upper: (rows,), infinite where there is no such bound.
        column_upper: (n,).
        whole: (n,), 1 for columns that must be whole numbers.
        time_limit_s: the search stops after so many seconds with the best so far.

    Raises:
        NothingFound: nothing satisfies the rows, or nothing was found in time.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    time_limit_s = share(time_limit_s, "time_limit_s")
    scale = float(np.abs(worth).max(initial=0.0)) or 1.0  # HiGHS's tolerances are absolute
    found = milp(
        -worth / scale,
        constraints=LinearConstraint(matrix, lower, upper),
        bounds=Bounds(0, column_upper),
        integrality=whole,
        options={"time_limit": time_limit_s, "mip_rel_gap": 0.0},
    )
    if found.x is None or not (whole.any() or found.status == 0):  # an LP half solved has no bound
        raise NothingFound(
            f"HiGHS found no choice within time_limit_s={time_limit_s:g} ({found.message}). "
            f"Loosen the bounds, or allow more time."
        )
    in_words = BY_SEARCH if whole.any() else BY_LP
    dual = found.mip_dual_bound if whole.any() else found.fun
    return Search(found.x, -dual * scale, in_words if found.status == 0 else f"{in_words}, stopped")
