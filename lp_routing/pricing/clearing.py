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


@dataclass(frozen=True, eq=False)
class Step:
    """Constraints that count no pair together, so that their markets clear at once.

    Attributes:
        rows: (S,), which constraints.
        slots: (S, longest), positions of the pairs that each counts, in the flat list; one past
            its end where a constraint counts fewer.
    """

    rows: Array
    slots: Array


class Markets:
    """What contested rows want of D constraints at given prices.

    Args:
        contest: the rows.
        priced: the constraints.
        lower, upper: (D,), units that these rows may take of each; below 0 where decided rows
            took too much already.
    """

    def __init__(self, contest: Contest, priced: Priced, lower: Array, upper: Array) -> None:
        self.value = contest.value.cpu().numpy()
        self.expert = contest.expert.cpu().numpy()
        self.place = None if contest.place is None else contest.place.cpu().numpy()
        units = contest.units.cpu().numpy()
        self.must, self.may = (side.cpu().numpy() / units for side in (contest.must, contest.may))
        self.flexible = bool((self.must < self.may).any())
        self.weights = None
        if bool((units != 1).any()):
            repeated = np.repeat(units, self.value.shape[1])
            self.weights = np.append(repeated, 0.0)
        self.incidence, self.E = priced.incidence.cpu().numpy(), priced.experts
        self.lower, self.upper = lower, upper
        self.steps = [self._step(rows) for rows in _disjoint(priced)]

    def sweep(self, prices: Array, low: Array, high: Array) -> Array:
        """Prices (D,) after every market has cleared once, kept between low and high."""
        for step in self.steps:
            rows, prices = step.rows, prices.copy()
            found = self._clearing(step, self._gain(prices), prices, np.zeros(len(rows)))
            prices[rows] = np.clip(found, low[rows], high[rows])
        return prices

    def with_room(self, prices: Array, units: Array) -> Array:
        """Where each constraint alone would clear if it had so many units (D,) more to give."""
        gain, found = self._gain(prices), prices.copy()
        for step in self.steps:
            found[step.rows] = self._clearing(step, gain, prices, units[step.rows])
        return found

    def around(self, prices: Array, units: Array) -> tuple[Array, Array]:
        """Where each would clear with so many units more, and fewer; the prices lie between."""
        low, high = self.with_room(prices, units), self.with_room(prices, -units)
        return np.minimum(low, prices), np.maximum(high, prices)

    def _clearing(self, step: Step, gain: Array, prices: Array, room: Array) -> Array:
        """Clearing prices (S,) of one step's constraints, all else unchanged."""
        offers = np.append(gain.ravel(), NEVER)[step.slots] + prices[step.rows, None]
        if self.weights is None:
            ranked = -np.sort(-offers, axis=1)
            sold = None
        else:
            order = np.argsort(-offers, axis=1, kind="stable")
            ranked = np.take_along_axis(offers, order, 1)
            weights = np.where(ranked == NEVER, 0.0, self.weights[step.slots])
            sold = np.cumsum(np.take_along_axis(weights, order, 1), 1)
        upper, lower = self.upper[step.rows] + room, self.lower[step.rows] + room
        at_upper = _middle(ranked, upper, sold)
        return _signed(at_upper, _middle(ranked, lower, sold, keep=True))

    def _gain(self, prices: Array) -> Array:
        """What each listed pair earns beyond its row's own price, (n, R)."""
        sides = self.incidence @ prices
        earned = self.value - sides[self.expert]
        if self.place is not None:
            earned -= sides[self.E + self.place][:, None]
        ranked = -np.sort(-earned, axis=1)
        own = _middle(ranked, self.may, keep=True)
        if self.flexible:
            own = _signed(_middle(ranked, self.may), _middle(ranked, self.must, keep=True))
        return np.asarray(earned - own[:, None])

    def _step(self, rows: Array) -> Step:
        """The pairs that each of some constraints counts."""
        sides = self.incidence[:, rows]
        label = np.where(sides.any(1), sides.argmax(1), len(rows))
        pairs = label[self.expert]
        if self.place is not None and not sides[: self.E].any():
            pairs = np.broadcast_to(label[self.E + self.place][:, None], self.value.shape)
        pairs = np.where(self.value > NEVER, pairs, len(rows)).ravel()
        order = np.argsort(pairs.astype(np.int16), kind="stable")
        count = np.bincount(pairs, minlength=len(rows) + 1)[:-1]
        slots = np.full((len(rows), max(1, int(count.max()))), pairs.size)
        rank = np.arange(slots.shape[1])
        filled = rank < count[:, None]
        slots[filled] = order[: int(count.sum())]
        return Step(rows, slots)


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

    Markets that hang together, such as all experts in demand, close in on their prices by a constant
    share of the distance with every sweep. Extrapolating from the last few sees through that.
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


def _signed(at_upper: Array, at_lower: Array) -> Array:
    """A price above 0 where the upper bound asks for it, below 0 where the lower one does."""
    return np.where(at_upper > 0, at_upper, np.minimum(at_lower, 0.0))


def _middle(ranked: Array, units: Array, sold: Array | None = None, *, keep: bool = False) -> Array:
    """Half way between the last offer of each line that fits and the first that does not.

    Args:
        ranked: (S, n) offers, best first, -inf past the last.
        units: (S,) how many fit.
        sold: (S, n) units up to and with each offer; 1, 2, 3, ... where left out.
        keep: where all fit, give the last offer, rather than -inf.
    """
    n = ranked.shape[1]
    if sold is None:
        last, first = np.ceil(units) - 1, np.floor(units)
        all_fit = units >= n
    else:
        last, first = (sold < units[:, None]).sum(1), (sold <= units[:, None]).sum(1)
        all_fit = first >= n
    lines = np.arange(len(ranked))
    inside = ranked[lines, np.clip(last, 0, n - 1).astype(int)]
    outside = ranked[lines, np.clip(first, 0, n - 1).astype(int)]
    all_fit = all_fit | (outside == NEVER)
    middle = np.where(units <= 0, ranked[:, 0], (inside + np.where(all_fit, inside, outside)) / 2)
    if not keep:
        return np.where(all_fit & (units > 0), NEVER, middle)
    lowest = np.where(ranked > NEVER, ranked, np.inf).min(1) if bool(all_fit.any()) else middle
    return np.where(all_fit & (units > 0), np.where(lowest < np.inf, lowest, 0.0), middle)
