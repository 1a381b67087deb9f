"""Concave value curves: what a budget is worth, and how one budget is best split over several."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import pad

from lp_routing.checks import as_tensor, number
from lp_routing.errors import InputError

INF = float("inf")
Budget = float | Tensor


@dataclass(frozen=True, eq=False)
class Concave:
    """The value of a budget of 0 to N units: straight from each whole budget to the next.

    Attributes:
        start: the value of no units, finite.
        slopes: float64 (N,), what the 1st, 2nd, ... unit adds; finite, never rising. N may be 0.

    Raises:
        InputError: slopes that are no vector of finite numbers, or rise.
    """

    start: float
    slopes: Tensor

    def __post_init__(self) -> None:
        start = number(self.start, "start", "a finite number", lambda _: True)
        slopes = as_tensor(self.slopes, "slopes", "a vector of numbers")
        if slopes.ndim != 1 or slopes.is_complex() or slopes.dtype == torch.bool:
            raise InputError(
                f"slopes: expected a vector of numbers, got {slopes.dtype} of shape "
                f"{tuple(slopes.shape)}."
            )
        slopes = slopes.double()
        if not bool(slopes.isfinite().all()):
            raise InputError("slopes: expected finite numbers; leave out units that are forbidden.")
        if bool((slopes[1:] > slopes[:-1]).any()):
            at = int((slopes[1:] > slopes[:-1]).nonzero()[0])
            raise InputError(
                f"slopes: entry {at + 1} ({float(slopes[at + 1]):g}) is above the one before it "
                f"({float(slopes[at]):g}): not concave. Sort them, the largest first."
            )
        object.__setattr__(self, "start", start)
        object.__setattr__(self, "slopes", slopes)

    @cached_property
    def values(self) -> Tensor:
        """The values of 0, 1, ..., N units, float64 (N + 1,)."""
        return self.start + pad(self.slopes.cumsum(0), (1, 0))

    def value(self, n: Budget) -> Tensor:
        """The value of n units, whole or not; float64 of the shape of n."""
        n = self.checked(n)
        below = n.floor().long()
        return self.values[below] + (n - below) * pad(self.slopes, (0, 1))[below]

    def left(self, n: Budget) -> Tensor:
        """The slope just below n: what the last unit adds; inf at 0."""
        return pad(self.slopes, (1, 0), value=INF)[self.checked(n).ceil().long()]

    def right(self, n: Budget) -> Tensor:
        """The slope just above n: what the next unit would add; -inf at N."""
        return pad(self.slopes, (0, 1), value=-INF)[self.checked(n).floor().long()]

    def smallest(self, value: float) -> int | None:
        """The smallest whole budget that is worth at least `value`; None where none is."""
        enough = (
            self.values >= number(value, "value", "a finite number", lambda _: True)
        ).nonzero()
        return int(enough[0]) if len(enough) else None

    def checked(self, n: Budget) -> Tensor:
        """Budgets as float64.

        Raises:
            InputError: not from 0 to N.
        """
        budgets = as_tensor(n, "n", "budgets").to(self.slopes.device).double()
        N = len(self.slopes)
        if not bool(((budgets >= 0) & (budgets <= N)).all()):
            raise InputError(f"n={n!r}: expected budgets from 0 to {N}, the number of units.")
        return budgets


@dataclass(frozen=True, eq=False)
class Merged:
    """The best total of some curves for every budget they share, and who gets which unit.

    Attributes:
        total: the best total value of a shared budget.
        owners: whole numbers (N,), the curve that the 1st, 2nd, ... unit goes to.
        curves: how many there are, L.
    """

    total: Concave
    owners: Tensor
    curves: int

    def split(self, n: float) -> Tensor:
        """Budgets of the curves, float64 (L,), that add up to n and are worth `total.value(n)`.

        A fraction of a unit goes to the owner of the next one.
        """
        budget = float(self.total.checked(n))
        below = int(budget)
        parts = torch.bincount(self.owners[:below], minlength=self.curves).double()
        if budget > below:
            parts[self.owners[below]] += budget - below
        return parts


def merged(curves: Sequence[Concave]) -> Merged:
    """The best split of every budget: units in order of their slopes, ties to the earlier curve.

    Best because the slopes of each curve never rise: the n largest slopes of all curves are units
    that come first in their own.

    Raises:
        InputError: no curves.
    """
    if not curves:
        raise InputError("merged: expected at least one curve, got none.")
    slopes = torch.cat([curve.slopes for curve in curves])
    lengths = torch.tensor([len(curve.slopes) for curve in curves], device=slopes.device)
    owners = torch.arange(len(curves), device=slopes.device).repeat_interleave(lengths)
    ordered = torch.sort(slopes, descending=True, stable=True)
    start = sum(curve.start for curve in curves)
    return Merged(Concave(start, ordered.values), owners[ordered.indices], len(curves))
