"""Prices by clearing one market after the other: exact descent on the dual, without a step size.

Given everybody else's prices, the best price of a constraint is where its demand meets its bound:
between what the last pair that fits would pay and what the first that does not fit would. Every
price between the two is as good for the dual; the middle is taken, which leaves both sides room and
keeps the descent from stalling at a kink. Token rows clear in the same way. Experts do not compete
for the same bound, so all of them clear at once; then groups, level by level, and the total.

Contested rows are few, so this runs in numpy, wherever the scores are.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from lp_routing.pricing.priced import Priced
from lp_routing.pricing.rows import NEVER, Contest

Array = np.ndarray[Any, Any]

MEMORY = 5
"""How many sweeps the extrapolation remembers."""


class Lines:
    """Lists of different lengths, sorted by length into tables at most twice as large.

    Args:
        label: (N,) int, which list each entry belongs to.
        count: number of lists L; entries with another label belong to none.
    """

    def __init__(self, label: Array, count: int) -> None:
        self.count = count
        order = np.argsort(label, kind="stable")
        length = np.bincount(label, minlength=count)[:count]
        start = np.cumsum(length) - length
        width = np.where(length > 0, 2 ** np.ceil(np.log2(np.maximum(length, 1))), 1).astype(int)
        self.tables = []
        for wide in np.unique(width):
            lines = np.flatnonzero(width == wide)
            rank = np.arange(wide)
            inside = rank < length[lines, None]
            slots = np.full(inside.shape, len(label))
            slots[inside] = order[(start[lines, None] + rank)[inside]]
            self.tables.append((lines, slots))

    def clear(
        self, offers: Array, lower: Array | None, upper: Array, weights: Array | None
    ) -> Array:
        """The price (L,) at which each list's demand meets its bounds.

        Args:
            offers: (N,), what each entry would pay.
            lower, upper: (L,), units to take; lower None where it is the same as upper.
            weights: (N,), units of each entry; 1 where left out.
        """
        prices = np.zeros(self.count)
        offers = np.append(offers, NEVER)
        for lines, slots in self.tables:
            table, sold = offers[slots], None
            if weights is None:
                table.sort(axis=1)
                table = table[:, ::-1]
            else:
                order = np.argsort(-table, axis=1, kind="stable")
                table = np.take_along_axis(table, order, 1)
                units = np.append(weights, 0.0)[np.take_along_axis(slots, order, 1)]
                sold = np.cumsum(units, 1)
            at_upper = _middle(table, upper[lines], sold, keep=lower is None)
            if lower is not None:
                at_lower = _middle(table, lower[lines], sold, keep=True)
                at_lower = np.where(lower[lines] > 0, at_lower, 0.0)  # nothing is asked for
                at_upper = np.where(at_upper > 0, at_upper, np.minimum(at_lower, 0.0))
            prices[lines] = at_upper
        return prices


Step = tuple[Array, Lines, Array]
"""Constraints that count no pair together, the pairs that each counts, and each pair's one."""


class Markets:
    """What contested rows want of D constraints at given prices.

    Args:
        contest: the rows.
        priced: the constraints.
        lower, upper: (D,), units that these rows may take of each; below 0 where decided rows
            took too much already.
    """

    def __init__(self, contest: Contest, priced: Priced, lower: Array, upper: Array) -> None:
        value = contest.value.cpu().numpy()
        self.row, rank = np.nonzero(value > NEVER)
        self.value = value[self.row, rank]
        self.expert = contest.expert.cpu().numpy()[self.row, rank]
        self.place = None
        if contest.place is not None:
            self.place = priced.experts + contest.place.cpu().numpy()[self.row]
        units = contest.units.cpu().numpy()
        must, self.may = (side.cpu().numpy() / units for side in (contest.must, contest.may))
        self.must = must if bool((must < self.may).any()) else None
        self.weights = units[self.row] if bool((units != 1).any()) else None
        self.incidence = priced.incidence.cpu().numpy()
        self.lower, self.upper = lower, upper
        self.rows = Lines(self.row, len(units))
        self.steps = [self._step(priced, rows) for rows in _disjoint(priced)]

    def sweep(self, prices: Array, low: Array, high: Array) -> Array:
        """Prices (D,) after every market has cleared once, kept between low and high."""
        for step in self.steps:
            rows, found = step[0], self._clearing(step, self._gain(prices), prices, 0.0)
            prices = prices.copy()
            prices[rows] = np.clip(found, low[rows], high[rows])
        return prices

    def around(self, prices: Array, units: Array) -> tuple[Array, Array]:
        """Where each would clear with so many units (D,) more, and fewer; prices lie between."""
        gain, low, high = self._gain(prices), prices.copy(), prices.copy()
        for step in self.steps:
            rows = step[0]
            more = self._clearing(step, gain, prices, units[rows])
            fewer = self._clearing(step, gain, prices, -units[rows])
            low[rows], high[rows] = np.minimum(low[rows], more), np.maximum(high[rows], fewer)
        return low, high

    def _clearing(self, step: Step, gain: Array, prices: Array, room: Array | float) -> Array:
        """Clearing prices of constraints that count no pair together, all else unchanged."""
        rows, lines, label = step
        own = np.append(prices[rows], 0.0)[label]
        lower, upper = self.lower[rows] + room, self.upper[rows] + room
        return lines.clear(gain + own, lower, upper, self.weights)

    def _gain(self, prices: Array) -> Array:
        """What each pair earns beyond its row's own price, (N,)."""
        sides = self.incidence @ prices
        earned = self.value - sides[self.expert]
        if self.place is not None:
            earned -= sides[self.place]
        return np.asarray(earned - self.rows.clear(earned, self.must, self.may, None)[self.row])

    def _step(self, priced: Priced, rows: Array) -> Step:
        """Constraints with the pairs that each counts, and which one each pair counts for."""
        sides = self.incidence[:, rows]
        label = np.where(sides.any(1), sides.argmax(1), len(rows))
        by_place = self.place is not None and not sides[: priced.experts].any()
        pairs = label[self.place if by_place else self.expert]
        return rows, Lines(pairs, len(rows)), pairs


@dataclass(frozen=True, eq=False)
class Course:
    """Where sweeps stand and where they came from.

    Attributes:
        prices: (D,).
        moved: (D,), how far the last sweep went, before extrapolation.
        seen: the prices from which the last few sweeps started.
        steps: what those sweeps did.
    """

    prices: Array
    moved: Array
    seen: tuple[Array, ...] = ()
    steps: tuple[Array, ...] = ()


def swept(markets: Markets, course: Course, low: Array, high: Array, sweeps: int) -> Course:
    """The course after more sweeps between low and high, extrapolated (Anderson 1965).

    Markets that hang together, such as all experts in demand, close in on their prices by the
    same share of the distance with every sweep. Extrapolating from the last few sees through that.
    """
    prices, moved, seen, steps = course.prices, course.moved, course.seen, course.steps
    prices = np.clip(prices, low, high)
    for _ in range(sweeps):
        cleared = markets.sweep(prices, low, high)
        step = cleared - prices
        moved = np.abs(step)
        if not step.any():
            break
        seen, steps = (*seen[-MEMORY:], prices), (*steps[-MEMORY:], step)
        prices = np.clip(cleared - _foreseen(seen, steps), low, high)
    return Course(prices, moved, seen, steps)


def _foreseen(seen: tuple[Array, ...], steps: tuple[Array, ...]) -> Array:
    """The part of the last step that the ones before explain, (D,)."""
    if len(steps) < 2:
        return np.zeros_like(steps[-1])
    turned, went = np.diff(steps, axis=0).T, np.diff(seen, axis=0).T
    mix = np.linalg.lstsq(turned, steps[-1], rcond=1e-6)[0]
    return np.asarray((went + turned) @ mix)


def _disjoint(priced: Priced) -> list[Array]:
    """Constraints in sets that count no pair together: families, nested groups level by level."""
    sets, first = [], 0
    for kind, count in priced.kinds:
        rows = np.arange(first, first + count)
        first += count
        if kind.endswith("_group"):
            members = priced.incidence.cpu().numpy()[:, rows]
            inside = members.T @ members == members.sum(0)[:, None]
            depth = inside.sum(1)
            sets += [rows[depth == level] for level in np.unique(depth)]
        else:
            sets.append(rows)
    return sets


def _middle(ranked: Array, units: Array, sold: Array | None = None, *, keep: bool) -> Array:
    """Half way between the last offer of each line that fits and the first that does not.

    Args:
        ranked: (S, n) offers, best first, -inf past the last.
        units: (S,) how many fit.
        sold: (S, n) units up to and with each offer; 1, 2, 3, ... where left out.
        keep: where all fit, give the last offer (0 if there is none), rather than -inf.
    """
    n = ranked.shape[1]
    if sold is None:
        last, first = np.ceil(units) - 1, np.floor(units)
    else:
        last, first = (sold < units[:, None]).sum(1), (sold <= units[:, None]).sum(1)
    lines = np.arange(len(ranked))
    inside = ranked[lines, np.clip(last, 0, n - 1).astype(int)]
    outside = ranked[lines, np.clip(first, 0, n - 1).astype(int)]
    all_fit = (units > 0) & ((first >= n) | (outside == NEVER))
    middle = np.where(units <= 0, ranked[:, 0], (inside + outside) / 2)
    if not all_fit.any():
        return middle
    if not keep:
        return np.where(all_fit, NEVER, middle)
    lowest = np.where(ranked > NEVER, ranked, np.inf).min(1)
    return np.where(all_fit, np.where(lowest < np.inf, lowest, 0.0), middle)
