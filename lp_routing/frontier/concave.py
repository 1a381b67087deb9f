"""Concave value curves: what a budget is worth, and how one budget is best split over several."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.validation import as_tensor, number, whole

INF = float("inf")
Budget = float | Tensor


@dataclass(frozen=True, eq=False)
class Concave:
    """The value of `first` to `last` units: straight from each whole budget to the next.

    Attributes:
        start: the value of `first` units, finite.
        slopes: (N,), what each further unit adds; finite, never rising. N may be 0. float32 stays
            float32, everything else is float64: millions of slopes are not copied without need.
        first: the smallest budget, whole and >= 0.

    Raises:
        InputError: slopes that are no vector of finite numbers, or rise; a bad start or first.
    """

    start: float
    slopes: Tensor
    first: int = 0

    def __post_init__(self) -> None:
        start = number(self.start, "start", "a finite number", lambda _: True)
        slopes = as_tensor(self.slopes, "slopes", "a vector of numbers")
        if slopes.ndim != 1 or slopes.is_complex() or slopes.dtype == torch.bool:
            raise InputError(
                f"slopes: expected a vector of numbers, got {slopes.dtype} of shape "
                f"{tuple(slopes.shape)}."
            )
        slopes = slopes if slopes.dtype == torch.float32 else slopes.double()
        _check_order(slopes)
        object.__setattr__(self, "start", start)
        object.__setattr__(self, "slopes", slopes)
        object.__setattr__(self, "first", whole(self.first, "first", 0))

    @property
    def last(self) -> int:
        """The largest budget, `first` + N."""
        return self.first + len(self.slopes)

    @cached_property
    def values(self) -> Tensor:
        """The values of `first`, `first` + 1, ..., `last` units, float64 (N + 1,)."""
        values = self.slopes.new_empty(len(self.slopes) + 1, dtype=torch.float64)
        values[0] = 0.0
        torch.cumsum(self.slopes, 0, dtype=torch.float64, out=values[1:])
        return values.add_(self.start)

    def value(self, n: Budget) -> Tensor:
        """The value of n units, whole or not; float64 of the shape of n."""
        n = self.checked(n) - self.first
        below = n.floor().long()
        return self.values[below] + (n - below) * self._slope(below, 0.0)

    def left(self, n: Budget) -> Tensor:
        """The slope just below n: what the last unit adds; inf at `first`."""
        return self._slope(self.checked(n).ceil().long() - self.first - 1, INF)

    def right(self, n: Budget) -> Tensor:
        """The slope just above n: what the next unit would add; -inf at `last`."""
        return self._slope(self.checked(n).floor().long() - self.first, -INF)

    def smallest(self, value: float) -> int | None:
        """The smallest whole budget that is worth at least `value`; None where none is."""
        wanted = number(value, "value", "a finite number", lambda _: True)
        rising = self.values[: int((self.slopes > 0).sum()) + 1]
        at = int(torch.searchsorted(rising, wanted))
        return self.first + at if at < len(rising) else None

    def breakpoints(self) -> Tensor:
        """The whole budgets at which the slope changes, and both ends; int64, ascending."""
        changes = (self.slopes[1:] != self.slopes[:-1]).nonzero()[:, 0] + 1
        first, last = changes.new_tensor([0]), changes.new_tensor([len(self.slopes)])
        return self.first + torch.cat([first, changes, last[: len(self.slopes)]])

    def checked(self, n: Budget) -> Tensor:
        """Budgets as float64.

        Raises:
            InputError: not from `first` to `last`.
        """
        budgets = as_tensor(n, "n", "budgets").to(self.slopes.device).double()
        if not bool(((budgets >= self.first) & (budgets <= self.last)).all()):
            raise InputError(f"n={n!r}: expected budgets from {self.first} to {self.last}.")
        return budgets

    def _slope(self, at: Tensor, outside: float) -> Tensor:
        """Entries of the slopes, float64; `outside` before the first and after the last."""
        slopes = self.slopes if len(self.slopes) else self.slopes.new_zeros(1)
        inside = (at >= 0) & (at < len(self.slopes))
        found = slopes[at.clamp(0, len(slopes) - 1)].double()
        return found.masked_fill(~inside, outside)


def _check_order(slopes: Tensor) -> None:
    """Raise unless slopes (N,) are finite and never rise.

    One comparison of neighbours does for all: it fails beside a NaN, and what lies between finite
    ends is finite.
    """
    if not bool(slopes[:1].isfinite().all() & slopes[-1:].isfinite().all()):
        raise InputError("slopes: expected finite numbers; leave out units that are forbidden.")
    if not bool((slopes[1:] <= slopes[:-1]).all()):
        if not bool(slopes.isfinite().all()):
            raise InputError("slopes: expected finite numbers; leave out units that are forbidden.")
        at = int((slopes[1:] > slopes[:-1]).nonzero()[0])
        raise InputError(
            f"slopes: entry {at + 1} ({float(slopes[at + 1]):g}) is above the one before it "
            f"({float(slopes[at]):g}): not concave. Sort them, the largest first."
        )


@dataclass(frozen=True, eq=False)
class Merged:
    """The best total of some curves for every budget they share, and who gets which unit.

    Attributes:
        total: the best total value of a shared budget, which begins with the least of each curve.
        owners: whole numbers (N,), the curve that each unit beyond `total.first` goes to.
        firsts: the smallest budget of each curve, L of them.
    """

    total: Concave
    owners: Tensor
    firsts: tuple[int, ...]

    @property
    def curves(self) -> int:
        """How many curves there are, L."""
        return len(self.firsts)

    def split(self, n: float) -> Tensor:
        """Budgets of the curves, float64 (L,), that add up to n and are worth `total.value(n)`.

        A fraction of a unit goes to the owner of the next one.
        """
        budget = float(self.total.checked(n)) - self.total.first
        below = int(budget)
        parts = torch.bincount(self.owners[:below], minlength=self.curves).double()
        parts += parts.new_tensor(self.firsts)
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
    firsts = tuple(curve.first for curve in curves)
    total = Concave(sum(curve.start for curve in curves), ordered.values, sum(firsts))
    return Merged(total, owners[ordered.indices], firsts)
