"""Concave curves of value over budget.

`ExactCurve` is exact at every budget; `merged` splits one budget optimally over several of them.
`CertifiedCurve` is known at solved budgets; their values and prices bound all others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from lp_routing.certificate.certificate import TOLERANCE
from lp_routing.display import as_html, as_text, data_frame
from lp_routing.errors import InputError
from lp_routing.validation import as_float, as_int, as_reals, as_tensor

if TYPE_CHECKING:
    import pandas

INF = float("inf")

Budget = float | Tensor


@dataclass(frozen=True, eq=False)
class ExactCurve:
    """The value of `first` to `last` units: straight from each whole budget to the next.

    Attributes:
        start: the value of `first` units, finite.
        slopes: (N,), what each further unit adds; finite, never rising. N may be 0. float32 is
            kept, to save memory; everything else is float64.
        first: the smallest budget, whole and >= 0.

    Raises:
        InputError: slopes that are no vector of finite numbers, or rise; a bad start or first.
    """

    start: float
    slopes: Tensor
    first: int = 0

    def __post_init__(self) -> None:
        start = as_float(self.start, "start", "a finite number", lambda _: True)
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
        object.__setattr__(self, "first", as_int(self.first, "first", 0))

    def to_frame(self) -> "pandas.DataFrame":
        """One row for each whole budget: budget, value."""
        columns = {"budget": range(self.first, self.last + 1), "value": self.values.cpu().numpy()}
        return data_frame("to_frame")(columns)

    def _shown(self) -> dict[str, object]:
        ends = self.values[[0, -1]].tolist()
        return {"first": self.first, "last": self.last, "value": f"{ends[0]:.6g}..{ends[1]:.6g}"}

    __repr__ = as_text
    _repr_html_ = as_html

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
        wanted = as_float(value, "value", "a finite number", lambda _: True)
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
        budgets = as_reals(n, "n", "budgets").to(self.slopes.device)
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

    One comparison of neighbours is enough: it fails beside a NaN, and what lies between finite
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
class SharedBudget:
    """The best total of several curves for every shared budget, and the curve that gets each unit.

    Attributes:
        total: the best total value over the shared budget, which starts at the sum of the smallest
            budgets.
        owners: whole numbers (N,), the curve that each unit beyond `total.first` goes to.
        firsts: the smallest budget of each curve, L of them.
    """

    total: ExactCurve
    owners: Tensor
    firsts: tuple[int, ...]

    def to_frame(self) -> "pandas.DataFrame":
        """One row for each shared budget: budget, value, and the curve its last unit goes to."""
        frame = self.total.to_frame()
        frame["owner"] = [None, *self.owners.tolist()]
        return frame.astype({"owner": "Int64"})

    def _shown(self) -> dict[str, object]:
        return {"curves": self.curves, "total": self.total}

    __repr__ = as_text
    _repr_html_ = as_html

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


def merged(curves: Sequence[ExactCurve]) -> SharedBudget:
    """The best split of every budget: units in order of their slopes, ties to the earlier curve.

    This is optimal because the slopes of each curve never rise: the n largest slopes of all curves
    are the first units of each.

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
    total = ExactCurve(sum(curve.start for curve in curves), ordered.values, sum(firsts))
    return SharedBudget(total, owners[ordered.indices], firsts)


class Interval(NamedTuple):
    """Lower and upper bound on a number, float64 tensors; equal where it is known exactly."""

    low: Tensor
    high: Tensor


class Line(NamedTuple):
    """A tangent: `bound` at `budget`, and `price` for each unit more."""

    budget: float
    bound: float
    price: float


@dataclass(frozen=True, eq=False)
class CertifiedCurve:
    """A concave curve between two envelopes: chords of attained values, the minimum of tangents.

    The optimum is a concave function of a bound's right-hand side, and the dual bound at fixed
    prices is linear in it. So the tangent at a solved budget bounds all others, and values on the
    chord of two of them are attained by convex combinations of their assignments; at whole budgets
    the optimum is whole and at least as good. Where chord and tangent meet, the value is proved.

    Attributes:
        budgets: int64 (P,), whole, strictly rising.
        values: float64 (P,), attained there by a feasible assignment.
        bounds: float64 (P,), proved: no assignment is worth more.
        prices: float64 (P,), supergradients: bounds[i] + prices[i] (n - budgets[i]) is proved to be
            an upper bound at every n. The sum of the shadow prices of one unit.

    Raises:
        InputError: lengths that differ, no points, budgets that are not whole or do not rise,
            numbers that are not finite, or a tangent below an attained value, which proves that
            a value or a price is wrong.
    """

    budgets: Tensor
    values: Tensor
    bounds: Tensor
    prices: Tensor

    def __post_init__(self) -> None:
        for name in ("budgets", "values", "bounds", "prices"):
            object.__setattr__(self, name, _vector(getattr(self, name), name))
        if len({len(column) for column in (self.budgets, *self._columns)}) > 1:
            lengths = [len(column) for column in (self.budgets, *self._columns)]
            raise InputError(
                f"budgets, values, bounds, prices: expected one entry each per point, got "
                f"{lengths[0]}, {lengths[1]}, {lengths[2]} and {lengths[3]} of them."
            )
        budgets = self.budgets.round().long()
        if not bool((self.budgets == budgets).all()) or bool((budgets.diff() <= 0).any()):
            raise InputError(
                f"budgets: expected whole numbers, each above the one before, got {self.budgets}."
            )
        object.__setattr__(self, "budgets", budgets)
        self._check_tangents()

    def to_frame(self) -> "pandas.DataFrame":
        """One row for each point: budget, value, bound, price."""
        columns = {
            "budget": self.budgets.cpu().numpy(),
            "value": self.values.cpu().numpy(),
            "bound": self.bounds.cpu().numpy(),
            "price": self.prices.cpu().numpy(),
        }
        return data_frame("to_frame")(columns)

    def _shown(self) -> dict[str, object]:
        return {
            "gap": self.gap,
            "first": self.first,
            "last": self.last,
            "points": len(self.budgets),
            "value": f"{float(self.values[0]):.6g}..{float(self.values[-1]):.6g}",
        }

    __repr__ = as_text
    _repr_html_ = as_html

    @property
    def first(self) -> int:
        """The smallest budget."""
        return int(self.budgets[0])

    @property
    def last(self) -> int:
        """The largest budget."""
        return int(self.budgets[-1])

    def since(self, n: int) -> "CertifiedCurve":
        """The same curve from the solved budget n on, or the next one; at least its last point."""
        inside = self.budgets >= min(n, self.last)
        return CertifiedCurve(
            self.budgets[inside], self.values[inside], self.bounds[inside], self.prices[inside]
        )

    def value(self, n: Budget) -> Tensor:
        """A lower bound on the value of n units: the chord between neighbouring points; float64.

        Raises:
            InputError: n is not from `first` to `last`; so all methods.
        """
        n = self.checked(n)
        right = torch.searchsorted(self.budgets.double(), n).clamp(1, max(len(self.budgets) - 1, 1))
        if len(self.budgets) == 1:
            return self.values[0].expand(n.shape).clone()
        low, high = self.budgets[right - 1].double(), self.budgets[right].double()
        share = (n - low) / (high - low)
        between = self.values[right - 1] + share * (self.values[right] - self.values[right - 1])
        return torch.where(n == high, self.values[right], between)

    def bound(self, n: Budget) -> Tensor:
        """An upper bound on the value of n units: the minimum of the tangents; float64."""
        n = self.checked(n)
        budgets, bounds, prices, turns = self._tangents
        at = torch.searchsorted(turns, n)
        return bounds[at] + prices[at] * (n - budgets[at])

    def left(self, n: Budget) -> Interval:
        """Bounds on what the last unit adds at whole n; inf at `first`.

        Exact up to rounding where n - 1 and n are proved. Else by chords and tangents: by concavity
        it is at most the mean slope from an earlier solved budget, and at least that to a later
        one.
        """
        n = self._whole(n)
        inside = n > self.first
        found = self._slope((n - 1).clamp(min=self.first))
        return Interval(*(side.masked_fill(~inside, INF) for side in found))

    def right(self, n: Budget) -> Interval:
        """Bounds on what the next unit adds at whole n; -inf at `last`, the end of the curve."""
        n = self._whole(n)
        inside = n < self.last
        found = self._slope(n.clamp(max=max(self.last - 1, self.first)))
        return Interval(*(side.masked_fill(~inside, -INF) for side in found))

    @cached_property
    def gap(self) -> float:
        """The largest bound - value over all whole budgets; by rounding it may be below 0."""
        return float((self.bound(self._kinks) - self.value(self._kinks)).max())

    @property
    def exact(self) -> bool:
        """Whether every whole budget is proved: the gap is rounding."""
        return self.gap <= TOLERANCE * self._size

    def smallest(self, value: float) -> tuple[int | None, int | None]:
        """The smallest whole budgets that are (surely enough, surely needed) for a value.

        The first is known to attain it, and no budget below the second does; they are equal where
        the curve is exact there. None where no budget is known to attain it, and where surely
        none does.
        """
        wanted = as_float(value, "value", "a finite number", lambda _: True)
        return self._first(self.value, wanted), self._first(self.bound, wanted)

    def as_concave(self) -> ExactCurve:
        """Breakpoints and slopes, unit by unit, where every whole budget is proved.

        Raises:
            InputError: the curve is not `exact`: solve more points, or all with `points=None`.
        """
        if not self.exact:
            raise InputError(
                f"as_concave: between the {len(self.budgets)} solved budgets the value is known "
                f"within {self.gap:.3g} only; solve all that it takes, with points=None."
            )
        every = torch.arange(self.first, self.last + 1, device=self.values.device)
        slopes = self.value(every).diff()
        falling: Tensor = torch.cummin(slopes, 0).values if len(slopes) else slopes  # by rounding
        return ExactCurve(float(self.values[0]), falling, self.first)

    def checked(self, n: Budget) -> Tensor:
        """Budgets as float64.

        Raises:
            InputError: not from `first` to `last`.
        """
        budgets = as_reals(n, "n", "budgets").to(self.values.device)
        if not bool(((budgets >= self.first) & (budgets <= self.last)).all()):
            raise InputError(f"n={n!r}: expected budgets from {self.first} to {self.last}.")
        return budgets

    @property
    def _columns(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.values, self.bounds, self.prices

    @property
    def _size(self) -> float:
        return max(float(column.abs().max()) for column in self._columns)

    @cached_property
    def _tangents(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The tangents of the lower envelope, (M,) each, and the M - 1 budgets where they meet."""
        columns = (self.budgets.tolist(), self.bounds.tolist(), self.prices.tolist())
        kept, turns = least_lines([Line(*point) for point in zip(*columns, strict=True)])
        values = [torch.tensor(column, dtype=torch.float64) for column in zip(*kept, strict=True)]
        budgets, bounds, prices = (column.to(self.values.device) for column in values)
        between = torch.tensor(turns, dtype=torch.float64, device=self.values.device)
        return budgets, bounds, prices, between

    @cached_property
    def _kinks(self) -> Tensor:
        """Whole budgets, ascending, that include the one with the largest bound - value."""
        turns = self._tangents[3]
        turns = turns[(turns > self.first) & (turns < self.last)]
        kinks: Tensor = torch.cat([self.budgets.double(), turns.floor(), turns.ceil()])
        return kinks.sort().values

    def _check_tangents(self) -> None:
        proved = self.bound(self.budgets.double())
        short = self.values - proved
        if bool((short > TOLERANCE * self._size).any()):
            i = int(short.argmax())
            raise InputError(
                f"budget {int(self.budgets[i])}: a tangent proves at most {float(proved[i])}, "
                f"below the value {float(self.values[i])}: a value, bound or price is wrong."
            )

    def _whole(self, n: Budget) -> Tensor:
        budgets = self.checked(n)
        if not bool((budgets == budgets.round()).all()):
            raise InputError(f"n={n!r}: expected whole budgets; units are not split here.")
        return budgets

    def _slope(self, n: Tensor) -> Interval:
        """Bounds on what the unit after whole n adds, n < last."""
        following = (n + 1).clamp(max=self.last)
        at = torch.searchsorted(self.budgets.double(), n, right=True) - 1
        before, known = self.budgets[at].double(), self.values[at]
        after = (at + 1).clamp(max=len(self.budgets) - 1)
        beyond, later = self.budgets[after].double(), self.values[after]
        most = torch.minimum(
            self.bound(following) - self.value(n),
            (self.bound(following) - known) / (following - before).clamp(min=1),
        )
        least = torch.maximum(
            self.value(following) - self.bound(n),
            (later - self.bound(n)) / (beyond - n).clamp(min=1),
        )
        return Interval(least, most)

    def _first(self, curve: Callable[[Budget], Tensor], wanted: float) -> int | None:
        """The first whole budget at which a concave curve, or the chords, reach a value."""
        enough = (curve(self._kinks) >= wanted).nonzero()
        if not len(enough):
            return None
        high = int(self._kinks[int(enough[0])])
        low = int(self._kinks[int(enough[0]) - 1]) if int(enough[0]) else high - 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if float(curve(middle)) >= wanted else (middle, high)
        return high


def least_lines(lines: list[Line]) -> tuple[list[Line], list[float]]:
    """The lines of the lower envelope, steepest first, and the budgets where they meet."""
    kept: list[Line] = []
    turns: list[float] = []
    for line in sorted(
        lines, key=lambda each: (-each.price, each.bound - each.price * each.budget)
    ):
        while kept:
            if line.price == kept[-1].price:
                break
            turn = _meeting(kept[-1], line)
            if not turns or turn > turns[-1]:
                turns.append(turn)
                kept.append(line)
                break
            kept.pop()
            turns.pop()
        else:
            kept.append(line)
    return kept, turns


def _meeting(steep: Line, flat: Line) -> float:
    """The budget beyond which the flatter of two lines is the lower one."""
    apart = flat.bound + flat.price * (steep.budget - flat.budget) - steep.bound
    return steep.budget + apart / (steep.price - flat.price)


def _vector(values: Tensor, name: str) -> Tensor:
    tensor = as_tensor(values, name, "a vector of numbers")
    if tensor.ndim != 1 or tensor.is_complex() or tensor.dtype == torch.bool or not len(tensor):
        raise InputError(
            f"{name}: expected a vector of numbers, one per point, got {tensor.dtype} of shape "
            f"{tuple(tensor.shape)}."
        )
    tensor = tensor.double()
    if not bool(tensor.isfinite().all()):
        raise InputError(f"{name}: expected finite numbers, got {tensor}.")
    return tensor
