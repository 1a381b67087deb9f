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

# What constants trade: passes over all rows, entries opened and searches, counted with each of
# them halved and doubled by `python -m benchmarks.engine_constants --seeds 3`. As they are: 93
# passes, 519,000 entries, 1,025 searches.
ROUNDS = 5
"""Rounds in which each expert's price is set alone, on the first sample. 2: 105 passes; 10: 70, but
each round costs as much as a pass where the sample is all rows."""
STEPS = 20
"""Newton steps at most, one pass over the rows each: a bound on the work."""
SLOW = 0.8
"""Share of the excess: a step that leaves more is slow. 0.4: 67 passes, 1,807 searches."""
PATIENCE = 3
"""Slow steps in a row before steps end, or twice as many while the excess is more than
a unit per node. 1: 79 passes, 1,285 searches; 6: 99 and 964. 256 experts took 4 s instead of 0.3 s
without the second rule."""
DAMPING = 0.5
"""Share of each leaf's own slope that is added to the curvature at first. Without it prices of
experts that can replace each other diverge; with 1.0 100 passes and 1,240 searches."""
LEAST_DAMPING, MOST_DAMPING = 0.15, 4.0
"""Damping stays between these shares. With 0.3 at least, twice the entries; with 0.075,
473,000 entries and 710 searches. 2 or 8 at most: the same."""
EASED, RAISED = 0.5, 4.0
"""Damping is multiplied by these after a step that kept, or broke, what it promised. Never easing
(1.0) costs 105 passes and 2,879 searches; 0.25 opens 807,000 entries. 2 and 8: nearly the same."""
KEPT, BROKEN = 0.7, 0.3
"""Shares of the promised fall of the excess that count as kept, and as broken. Halved or doubled:
91 to 97 passes."""
FEWEST = 4.0
"""Rows of the sample by which a price move is measured. 2: 571,000 entries; 8: 467,000."""
FORGOTTEN = 0.5
"""Factor: the slope seen where a price went too far counts less after each step that helped. Half
or twice as much opens more: 971,000 and 649,000 entries."""
RENEWED = 0.3
"""Share of the excess at which widths are looked for again. 0.6: 80 passes, 958,000 entries."""
NARROWEST = 1e-30
"""Share of the largest score: widths are at least this, as slopes are divided by them."""
LEAST_WIDTH = 1e-280
"""In score: widths are at least this, so that no slope overflows."""
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
        if step and least - size > KEPT * (least - hoped):
            damping = max(LEAST_DAMPING, damping * EASED)
        elif step and least - size < BROKEN * (least - hoped):
            damping = min(MOST_DAMPING, damping * RAISED)
        if step:  # nodes whose excess changed sign and grew show how steep demand is
            past = (now * excess < 0) & (np.abs(now) > np.abs(excess))
            past &= np.abs(moved) > 0
            seen = np.abs(now - excess)[past] / np.abs(moved)[past]
            steep[past] = np.maximum(steep[past], seen)
        if size < least:
            found, least, excess = (price, load), size, now
            if size <= tree.root / 2:
                break
            if size < RENEWED * looked:
                looked = size
                width, slope = sample.widths(tree, price, excess, rows.units)
            between = rows.curvature(width)
            system = np.diag(between.sum(0) + between.sum(1)) - between - between.T
            system = system if above is None else above.T @ system @ above
            own = np.append(slope, np.maximum(system.diagonal()[tree.leaves :], slope.mean()))
            steep *= FORGOTTEN
        if step == steps or slow > PATIENCE * (2 if least > tree.root else 1):
            break
        free = (excess != 0) | (found[0] != 0) | (tree.lower == tree.upper)[:-1]
        move = np.zeros(tree.root)
        move[free] = conjugate_gradients(
            (system + np.diag(damping * own + steep))[np.ix_(free, free)], excess[free]
        )
        hoped = float(np.abs(excess - system @ move).sum()) / 2
        price = sample.rounded(_signed(tree, found[0], found[0] + move))
        moved = price - found[0]
    if found[0] is not price:
        return found[0], rows.respond(tree.leaf_prices(found[0]))
    return found


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
def conjugate_gradients(system, right):
    """The solution of a symmetric, diagonally dominant system to four digits (Jacobi's scaling)."""
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
        if new <= 1e-8 * first:
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
        self.weight = None
        if len(terms) > 1 and bool((terms[:, 2] != terms[0, 2]).any()):
            self.weight = terms[:, 2].astype(float)
        self.each = float(terms[0, 2]) if self.weight is None and len(terms) else 1.0
        self.total = len(rows) if self.weight is None else float(self.weight.sum())

    def rounded(self, price: Array) -> Array:
        """Prices on the grid on which scores often lie, so that ties are ties."""
        return np.rint(price / self.grid) * self.grid

    def bids(self, price: Array) -> Array:
        """What each row would pay for each expert, at leaf prices, in units of `unit`."""
        rows, bid = self.rows, np.empty_like(self.columns)
        rows.respond(price)
        bids(self.columns, rows.best, rows.taken, rows.terms, rows.turn / self.unit, bid)
        return bid

    def first_prices(self, tree: Tree) -> Array:
        """Each expert's price is set so that it is just full, all at once, a few times."""
        share, E = self.rows.units / max(tree.units, 1) / self.each, len(self.columns)
        most, least = (bounds[:E] * share for bounds in (tree.upper, tree.lower))
        price = np.zeros(tree.root)
        for _ in range(ROUNDS):
            bid = self.bids(tree.leaf_prices(price))
            for j in range(E):
                price[j] = self.unit * self.filled(bid[j], least[j], most[j])
        return self.rounded(price)

    def filled(self, bid: Array, least: float, most: float) -> float:
        """The price at which an expert holds at most `most` and at least `least` of the rows."""
        high = level(bid, self.total - most, self.weight) if most < self.total else -np.inf
        if 0 < high < np.inf:
            return high
        low = level(bid, self.total - least, self.weight) if 0 < least < self.total else np.inf
        return low if -np.inf < low < 0 else 0.0

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
        away = self.bids(leaf_price)
        away -= (leaf_price[:E] / self.unit).astype(np.float32)[:, None]
        np.abs(away, out=away)
        width = np.empty(tree.leaves)
        for j in range(E):
            if self.weight is None:
                at = min(int(change[j]), len(away[j]) // 2)
                away[j].partition(at)
                width[j] = away[j, at]
            else:
                width[j] = level(away[j], min(change[j], self.total / 2), self.weight)
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
        bid[j] = columns[j] - leaves
    for i in range(n):
        copies = terms[i if len(terms) > 1 else 0, 2]
        for r in range(-(-units[i] // copies)):
            j = best[i, r]
            bid[j, i] = columns[j, i] - np.float32(turn[i, 1])


def level(values: Array, under: float, weight: Array | None) -> float:
    """A value that so much weight lies below (each has 1 where `weight` is None); may reorder."""
    if weight is not None:
        return float(weighted_level(values, weight.copy(), under))
    at = min(max(int(under), 1), len(values) - 1)
    if at < 1:
        return float(values[0])
    values.partition(at)
    return 0.5 * (float(values[:at].max()) + float(values[at]))


@njit(cache=True, nogil=True)
def weighted_level(values, weight, under):
    """`level` by Hoare's selection; reorders values and weights."""
    low, high = 0, len(values) - 1
    done = 0.0  # weight of what lies left of `low`
    while low < high:
        pivot = values[(low + high) // 2]
        a, b = low, high
        while a <= b:
            while values[a] < pivot:
                a += 1
            while values[b] > pivot:
                b -= 1
            if a <= b:
                values[a], values[b] = values[b], values[a]
                weight[a], weight[b] = weight[b], weight[a]
                a += 1
                b -= 1
        left, middle = done, 0.0
        for c in range(low, b + 1):
            left += weight[c]
        for c in range(b + 1, a):
            middle += weight[c]
        if under < left:
            high = b
        elif under > left + middle:
            low, done = a, left + middle
        elif under == left + middle and a <= high:
            above = values[a]
            for c in range(a, high + 1):
                above = min(above, values[c])
            below = values[low] if b < low else values[b]
            for c in range(low, a):
                below = max(below, values[c])
            return 0.5 * (np.float64(below) + np.float64(above))
        elif under == left and b >= low:
            below = values[low]
            for c in range(low, b + 1):
                below = max(below, values[c])
            above = values[b + 1] if b + 1 < len(values) else pivot
            for c in range(b + 1, high + 1):
                above = min(above, values[c])
            return 0.5 * (np.float64(below) + np.float64(above))
        else:
            return np.float64(pivot)
    return np.float64(values[low])
