"""Prices by clearing one market after the other: exact descent on the dual, without a step size.

Given everybody else's prices, the best price of a constraint is where its demand meets its bound:
between what the last pair that fits would pay and what the first that does not fit would. Every
price between the two is as good for the dual; the middle is taken, which leaves both sides room and
keeps the descent from stalling at a kink. Token rows clear in the same way. Experts do not compete
for the same bound, so all of them clear at once; then groups, level by level, and the total.

Contested rows are few, so this runs in numpy, wherever the scores are.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

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
        self.tables: list[tuple[Array, Array]] = []
        for wide in np.unique(width).tolist():
            lines = np.flatnonzero(width == wide)
            rank = np.arange(wide)
            inside = rank < length[lines, None]
            slots = np.full(inside.shape, len(label))
            slots[inside] = order[(start[lines, None] + rank)[inside]]
            self.tables.append((lines, slots))

    def ranks(self, offers: Array) -> Array:
        """How many entries of its list are better than each, (N,); ties by position."""
        rank = np.empty(len(offers) + 1, dtype=np.int64)
        offers = np.append(offers, NEVER)
        for _, slots in self.tables:
            order = np.argsort(-offers[slots], axis=1, kind="stable")
            sorted_slots = np.take_along_axis(slots, order, 1)
            rank[sorted_slots] = np.arange(slots.shape[1])
        return rank[:-1]

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


class Step(NamedTuple):
    """Constraints that count no pair together, so that their markets clear at once.

    Attributes:
        rows: (S,), which constraints.
        lines: the pairs that each counts.
        label: (N,), the one that counts each pair; S where none does.
        whole: whether they count all pairs of a token, as the total and groups of tokens do.
    """

    rows: Array
    lines: Lines
    label: Array
    whole: bool


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
        self.steps = [self._step(priced, rows) for rows in priced.disjoint]

    def sweep(self, prices: Array, low: Array, high: Array) -> Array:
        """Prices (D,) after every market has cleared once, kept between low and high."""
        for step in self.steps:
            found = self._clearing(step, self._offers(step, prices), 0.0)
            prices = prices.copy()
            prices[step.rows] = np.clip(found, low[step.rows], high[step.rows])
        return prices

    def around(self, prices: Array, units: Array) -> tuple[Array, Array]:
        """Where each would clear with so many units (D,) more, and fewer; prices lie between."""
        low, high = prices.copy(), prices.copy()
        for step in self.steps:
            rows, offers = step.rows, self._offers(step, prices)
            more = self._clearing(step, offers, units[rows])
            fewer = self._clearing(step, offers, -units[rows])
            low[rows], high[rows] = np.minimum(low[rows], more), np.maximum(high[rows], fewer)
        return low, high

    def _clearing(self, step: Step, offers: Array, room: Array | float) -> Array:
        """Clearing prices (S,) of one step, with so much more room, all else unchanged."""
        lower, upper = self.lower[step.rows] + room, self.upper[step.rows] + room
        return step.lines.clear(offers, lower, upper, self.weights)

    def _offers(self, step: Step, prices: Array) -> Array:
        """What each pair would pay the constraint of a step that counts it, (N,).

        What it earns beyond its row's own price; but where a constraint counts all pairs of a row,
        the row answers at once: it takes what it must at any price, and up to what it may as long
        as that earns something.
        """
        sides = self.incidence @ prices
        earned = self.value - sides[self.expert]
        if self.place is not None:
            earned = earned - sides[self.place]
        own = np.append(prices[step.rows], 0.0)[step.label]
        if not step.whole or self.must is None:
            slot = self.rows.clear(earned, self.must, self.may, None)
            return np.asarray(earned - slot[self.row] + own)
        rank, offers = self.rows.ranks(earned), earned + own
        any_price = offers.max(initial=0.0) + np.ptp(offers) if len(offers) else 0.0
        offers = np.where(rank < self.must[self.row], any_price, offers)
        return np.where(rank < self.may[self.row], offers, NEVER)

    def _step(self, priced: Priced, rows: Array) -> Step:
        """Constraints with the pairs that each counts, and which one each pair counts for."""
        sides = self.incidence[:, rows]
        label = np.where(sides.any(1), sides.argmax(1), len(rows))
        by_place = self.place is not None and not sides[: priced.experts].any()
        pairs = label[self.place if by_place else self.expert]
        whole = by_place or bool(sides[: priced.experts].all())
        return Step(rows, Lines(pairs, len(rows)), pairs, whole)


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
    inside = ranked[lines, np.maximum(np.minimum(last, n - 1), 0).astype(int)]
    outside = ranked[lines, np.maximum(np.minimum(first, n - 1), 0).astype(int)]
    middle = np.where(units <= 0, ranked[:, 0], (inside + outside) / 2)
    all_fit = np.flatnonzero((units > 0) & ((first >= n) | (outside == NEVER)))
    if not len(all_fit):
        return middle
    middle[all_fit] = NEVER
    if keep:
        offered = ranked[all_fit]
        lowest = np.where(offered > NEVER, offered, np.inf).min(1)
        middle[all_fit] = np.where(lowest < np.inf, lowest, 0.0)
    return middle
