"""Prices: first from few rows, one expert at a time; then by Newton steps on the dual.

The dual is convex and piecewise linear in the prices of the nodes. Its slope at a node is what
flows through it less its bound. Its curvature is a graph: so many units change from leaf to leaf
for each unit of price. A Newton step solves that graph for the price moves that would carry the
excess away (a Laplacian system, V x V).
"""

from typing import Any, Protocol

import numpy as np
from numba import njit

from lp_routing.solvers.min_cost_flow.tree import Tree

Array = np.ndarray[Any, np.dtype[Any]]

# What constants trade: passes over all rows, entries opened and searches, each constant halved and
# doubled on 12 skewed batches by `python -m benchmarks.engine_constants --seeds 3`. As they are: 74
# passes, 330,000 entries, 659 searches.
ROUNDS = 10
"""Rounds at most in which each expert's price is set alone, on the first sample. 5: 95 passes; 20:
the same as 10."""
CLEARED = 1.0
"""Units of the sample's excess for each node: with no more, these rounds end. 0.5: 516 searches,
but two rounds more on batches without skew, of 0.3 `topk` each at 1,024 x 64; 2: 89 passes."""
STEPS = 20
"""Newton steps at most, one pass over the rows each: a bound on the work. 10: the same."""
NEAR = 0.5
"""Units of excess for each node: with no more, steps end, and exchanges do the rest. 1: the same
time; 2: up to 2.5 times as long at 65,536 x 64."""
SLOW = 0.8
"""Share of the excess: a step that leaves more is slow. 0.4: 47 passes, 4,175,000 entries."""
PATIENCE = 3
"""Slow steps in a row before steps end. 1: 71 passes, 788 searches; 6: the same as 3."""
DAMPING = 0.5
"""Share of each leaf's own slope that is added to the curvature at first. 0.25: 966,000 entries; 1:
86 passes. With none, a leaf that no row is near to makes the system singular."""
EASED, RAISED = 0.5, 4.0
"""Damping is multiplied by these after a step that kept, or broke, what it promised. Never easing
(1): 98 passes, 2,442 searches; easing by 0.25: 502,000 entries. Raising by 2: 80 passes; by 8:
516,000 entries."""
KEPT, BROKEN = 0.7, 0.3
"""Shares of the promised fall of the excess that count as kept, and as broken. Halved or doubled:
70 to 80 passes, 315,000 to 525,000 entries."""
FEWEST = 4.0
"""Rows of the sample by which a price move is measured. 2: 476,000 entries; 8: 81 passes."""
FORGOTTEN = 0.5
"""Factor: the slope seen where a price went too far counts less after each step that helped. 0.25:
81 passes; 1 (never less): 550,000 entries."""
RENEWED = 0.3
"""Share of the excess at which widths are looked for again. 0.15: 622,000 entries; 0.6: 287,000."""
NARROWEST = 1e-30
"""Share of the largest score: widths are at least this, as slopes are divided by them."""
LEAST_WIDTH = 1e-280
"""In score: widths are at least this, so that no slope overflows."""
RESIDUAL = 1e-8
"""Share of the system's squared residual that is left. 1e-4: twice the entries and searches; 1e-12:
the same as 1e-8."""
GRID = 50
"""Prices are rounded to 2**-GRID of the power of two above the sample's largest score:
float64 has 53 bits, and 3 are left for prices above that score."""


class Rows(Protocol):
    """Rows as this file needs them: see `cpu.Rows`."""

    units: int

    def respond(self, price: Array) -> Array:
        """Loads of the leaves at leaf prices."""
        ...

    def curvature(self, width: Array) -> Array:
        """Units that change from leaf to leaf for each unit of price, within their widths."""
        ...


def newton_steps(
    rows: Rows, sample: "Sample", tree: Tree, price: Array, steps: int = STEPS
) -> tuple[Array, Array]:
    """Prices of the nodes (V - 1,) after Newton steps, and the loads of the leaves at them.

    Steps are damped by what each leaf's own demand would change (Levenberg and Marquardt):
    one that does not help is taken back, and the next damped more.
    """
    above = None if tree.leaves == tree.root else tree.above().astype(float)
    least, looked, damping, slow = np.inf, np.inf, DAMPING, 0
    found, system, own, excess, hoped = (price, np.zeros(0)), *np.zeros((3, 0)), 0.0
    steep, moved = np.zeros((2, tree.root))
    for step in range(steps + 1):
        load = rows.respond(tree.leaf_prices(price))
        now = excess_at(tree, price, load, rows.units)
        size = float(np.abs(now).sum()) / 2
        slow = slow + 1 if size > SLOW * least else 0
        if step:
            damping *= _damping_factor(least - size, least - hoped)
            steep = np.maximum(steep, _steepness(now, excess, moved))
        if size < least:
            found, least, excess = (price, load), size, now
            if size <= tree.root * NEAR:
                break
            if size < RENEWED * looked:
                looked = size
                width, slope = sample.widths(tree, price, excess, rows.units)
            between = rows.curvature(width)
            system = np.diag(between.sum(0) + between.sum(1)) - between - between.T
            system = system if above is None else above.T @ system @ above
            own = np.append(slope, np.maximum(system.diagonal()[tree.leaves :], slope.mean()))
            steep *= FORGOTTEN
        if step == steps or slow > PATIENCE:
            break
        free = (excess != 0) | (found[0] != 0) | (tree.lower == tree.upper)[:-1]
        move = np.zeros(tree.root)
        move[free] = conjugate_gradients(
            (system + np.diag(damping * own + steep))[np.ix_(free, free)], excess[free], RESIDUAL
        )
        hoped = float(np.abs(excess - system @ move).sum()) / 2
        price = sample.rounded(_signed(tree, found[0], found[0] + move))
        moved = price - found[0]
    if found[0] is not price:
        return found[0], rows.respond(tree.leaf_prices(found[0]))
    return found


def _damping_factor(fallen: float, promised: float) -> float:
    """What damping is multiplied by after a step, by how the excess has fallen."""
    if fallen > KEPT * promised:
        return EASED
    return RAISED if fallen < BROKEN * promised else 1.0


def _steepness(now: Array, before: Array, moved: Array) -> Array:
    """How steep demand was seen to be, at nodes (V - 1,) whose excess changed sign and grew."""
    past = (now * before < 0) & (np.abs(now) > np.abs(before)) & (moved != 0)
    steep = np.zeros_like(moved)
    np.divide(np.abs(now - before), np.abs(moved), out=steep, where=past)
    return steep


def excess_at(tree: Tree, price: Array, load: Array, units: int) -> Array:
    """What flows through each node (V - 1,) beyond the bound that its price stands for."""
    share = units / max(tree.units, 1)
    flow, low, high = tree.through(load), tree.lower[:-1] * share, tree.upper[:-1] * share
    at_rest = np.maximum(flow - high, 0) + np.minimum(flow - low, 0)
    priced = np.where(price > 0, flow - high, np.where(price < 0, flow - low, at_rest))
    return np.where(tree.lower[:-1] == tree.upper[:-1], flow - high, priced)


def _signed(tree: Tree, before: Array, after: Array) -> Array:
    """A price that would change its sign stops at 0, where the slope jumps."""
    jumps = (np.sign(before) * np.sign(after) < 0) & (tree.lower < tree.upper)[:-1]
    return np.where(jumps, 0.0, after)


@njit(cache=True, nogil=True)
def conjugate_gradients(system, right, residual):
    """The solution of a symmetric, diagonally dominant system, with Jacobi's scaling.

    Ends when so much of the scaled, squared `residual` is left.
    """
    n = len(right)
    x, r = np.zeros(n), right.copy()
    d, q = np.zeros(n), np.empty(n)
    energy, first = 1.0, 0.0
    for step in range(2 * n):
        new = 0.0
        for i in range(n):
            new += r[i] * r[i] / system[i, i]
        if step == 0:
            first = new
        if new <= residual * first:
            break
        for i in range(n):
            d[i] = r[i] / system[i, i] + new / energy * d[i]
        energy = new
        q[:] = 0.0
        for j in range(n):
            q += system[j] * d[j]
        along = 0.0
        for i in range(n):
            along += q[i] * d[i]
        x += energy / along * d
        r -= energy / along * q
    return x


class Sample:
    """Some rows that say how far a leaf's price is from one at which demand for it would change.

    Args:
        rows: the rows, in this machine's memory.
        finest: prices are whole multiples of at least this.
    """

    def __init__(self, rows: Any, finest: float = 0.0) -> None:
        self.rows = rows
        rows.turn = np.empty((len(rows), 2))
        columns = rows.values(slice(None)).T
        sizes = np.abs(columns)
        largest = float(sizes.max(initial=0.0, where=sizes < np.inf))
        self.unit = 2.0 ** int(np.frexp(largest)[1]) if largest > 0 else 1.0
        self.grid = max(self.unit * 2.0**-GRID, finest)
        self.columns = np.ascontiguousarray(columns / self.unit, dtype=np.float32)

        terms = rows.terms
        self.bid = np.empty_like(self.columns)
        uneven = len(terms) > 1 and bool((terms[:, 2] != terms[0, 2]).any())
        self.weight = terms[:, 2].copy() if uneven else np.empty(0, np.int64)
        self.each = 1.0 if uneven or not len(terms) else float(terms[0, 2])
        self.total = float(self.weight.sum()) if uneven else float(len(rows))

    def rounded(self, price: Array) -> Array:
        """Prices on the grid on which scores often lie, so that ties are ties."""
        return np.rint(price / self.grid) * self.grid

    def bids(self, price: Array) -> Array:
        """What each row would pay for each expert, at leaf prices, in units of `unit`."""
        self.rows.respond(price)
        return self._bids()

    def _bids(self) -> Array:
        rows = self.rows
        turn = rows.turn / self.unit
        bids(self.columns, rows.best, rows.taken, rows.terms, turn, self.bid)
        return self.bid

    def first_prices(self, tree: Tree) -> Array:
        """Each expert's price is set so that it is just full, all at once, a few times."""
        share, E = self.rows.units / max(tree.units, 1) / self.each, len(self.columns)
        least, most = tree.lower[:E] * share, tree.upper[:E] * share
        price = np.zeros(tree.root)
        for _ in range(ROUNDS):
            load = self.rows.respond(tree.leaf_prices(price))
            excess = excess_at(tree, price, load, self.rows.units)
            if np.abs(excess).sum() <= tree.root * CLEARED:
                break
            price[:E] = self.unit * clearing_prices(
                self._bids(), self.weight, self.total, least, most
            )
        return self.rounded(price)

    def widths(self, tree: Tree, price: Array, excess: Array, units: int) -> tuple[Array, Array]:
        """How far each leaf's price must move to shed its excess alone, and how much a unit sheds.

        The rows whose bid is nearest to the price, on either side, are the first to change.

        Args:
            excess: (V - 1,) of all rows.
            units: what all rows hand out; the sample's share of the excess is looked at.
        """
        share, E = self.rows.units / max(units, 1), len(self.columns)
        change = np.maximum(np.abs(excess[: tree.leaves]) * share / self.each, FEWEST)
        leaf_price = tree.leaf_prices(price)
        bid, width = self.bids(leaf_price), np.full(tree.leaves, np.inf)
        width[:E] = distances(bid, leaf_price / self.unit, self.weight, self.total, change)
        known = width[:E][width[:E] < np.inf]
        widest = max(float(known.max(initial=0.0)), NARROWEST)
        width[E:] = widest
        width = np.maximum(self.unit * np.clip(width, NARROWEST, widest), LEAST_WIDTH)
        return width, change * self.each / share / width


@njit(cache=True, nogil=True)
def bids(columns, best, units, terms, turn, bid):
    """What each row would pay for each expert: its score less what it would have instead.

    That is what leaves when this expert comes, or for one it holds, what comes when it leaves.

    Args:
        columns: float32 (E, n), scores by expert.
        best, units, terms, turn: of `rows.respond`.
        bid: float32 (E, n), overwritten.
    """
    E, n = columns.shape
    leaves = turn[:, 0].astype(np.float32)
    for j in range(E):
        for i in range(n):
            bid[j, i] = columns[j, i] - leaves[i]
    for i in range(n):
        copies = terms[i if len(terms) > 1 else 0, 2]
        for r in range(-(-units[i] // copies)):
            j = best[i, r]
            bid[j, i] = columns[j, i] - np.float32(turn[i, 1])


@njit(cache=True, nogil=True)
def clearing_prices(bid, weight, total, least, most):
    """Prices at which each expert holds at most `most` and at least `least` of the bids (E, n).

    Above 0 where it would hold too much at 0, below 0 where too little.
    """
    price = np.zeros(len(bid))
    for j in range(len(bid)):
        if most[j] < total:
            high = level(bid[j], weight, _between_bids(total - most[j], weight, total))
            if 0 < high < np.inf:
                price[j] = high
        if price[j] == 0 and 0 < least[j] < total:
            low = level(bid[j], weight, _between_bids(total - least[j], weight, total))
            if -np.inf < low < 0:
                price[j] = low
    return price


@njit(cache=True, inline="always")
def _between_bids(under, weight, total):
    """Bids of one token each are parted between two of them."""
    return under if len(weight) else min(max(np.floor(under), 1.0), total - 1.0)


@njit(cache=True, nogil=True)
def distances(bid, price, weight, total, change):
    """How far from its price an expert's nearest bids (E, n) lie that make up `change` (leaves,).

    At most half of the bids are looked at.
    """
    found = np.empty(len(bid))
    for j in range(len(bid)):
        away = np.abs(bid[j] - np.float32(price[j]))
        found[j] = level(away, weight, min(change[j], total / 2))
    return found


@njit(cache=True, nogil=True)
def level(values, weight, under):
    """A value that so much weight lies below: half way between two where `under` parts them.

    Quickselect (Hoare 1961) that copies what lies on the right side of the pivot, without branches:
    1.3 us for 1,024 values of which 32 lie above, where `numpy.partition` takes 7.5 us.

    Args:
        values: (n,).
        weight: int64 (n,), or (0,) where each has 1.
        under: at least 0; 0 is the least value, all weight or more the largest.
    """
    n, weighted = len(values), len(weight) > 0
    left, mass = values.copy(), weight.copy()
    done, pivot = 0, left[0]  # weight that was dropped below what is left
    below, above = np.nan, np.nan  # the nearest values that were dropped
    while n > 0:
        a, b, c = left[0], left[n // 2], left[n - 1]
        pivot = max(min(a, b), min(max(a, b), c))
        low, high = done, done
        if weighted:
            for i in range(n):
                low += mass[i] * (left[i] < pivot)
                high += mass[i] * (left[i] <= pivot)
        else:
            for i in range(n):
                low += left[i] < pivot
                high += left[i] <= pivot
        if low < under < high:
            break
        downwards, kept = under <= low, 0
        if downwards:
            above = pivot
            for i in range(n):
                value = left[i]
                left[kept] = value
                if weighted:
                    mass[kept] = mass[i]
                kept += value < pivot
        else:
            below, done = pivot, high
            for i in range(n):
                value = left[i]
                left[kept] = value
                if weighted:
                    mass[kept] = mass[i]
                kept += value > pivot
        n = kept
        if under in (low, high):
            for value in left[:n]:
                if downwards:
                    below = below if below > value else value
                else:
                    above = above if above < value else value
            parted = 0.5 * (np.float64(below) + np.float64(above))
            return np.float64(pivot) if np.isnan(parted) else parted
    return np.float64(pivot)
