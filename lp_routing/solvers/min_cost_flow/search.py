"""The search: nearly right prices, the few rows that are close to indifferent, exchanges, a check.

1. *Prices* (`newton`): from a sample, then larger ones, then all rows; one pass a step.
2. *Open rows*: for each leaf the `NEAREST` rows that are nearest to changing it, and of these the
   entries that could change hands.
3. *Exchanges* (`exchange`): units move along cheapest paths until every bound holds.
4. *Check*: one look at the rows whose margin is less than the prices have moved. Those that would
   now choose otherwise join the open rows, whole; again from 3. If there are none, every row takes
   its best at the final prices and every bound is met: the assignment is optimal, by duality.

Where no path leads on, rows that hold the nodes reached are opened wider, in the end wholly; if
there is still no path, those nodes are a cut that proves that no assignment exists.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lp_routing.solvers.min_cost_flow.cpu import Read, Rows, put, rows_of
from lp_routing.solvers.min_cost_flow.device import DeviceRows
from lp_routing.solvers.min_cost_flow.exchange import DONE, NO_PATH, OUT_OF_STEPS, exchange
from lp_routing.solvers.min_cost_flow.newton import GRID, STEPS, Sample, excess_at, newton_steps
from lp_routing.solvers.min_cost_flow.rows import TIE, entries, put_back
from lp_routing.solvers.min_cost_flow.shared import SharedRows
from lp_routing.solvers.min_cost_flow.tree import Tree

Array = np.ndarray[Any, np.dtype[Any]]

AnyRows = Rows | DeviceRows | SharedRows

# What constants trade: see `newton`. As they are, all rows of the benchmark's 12 batches are passed
# over 74 times, 330,000 entries are opened in 659 searches.
FIRST = 1024
"""Rows of the first sample, or 4 an expert if more. 512: 100 passes; 2,048: 63, but more over the
sample, and 876,000 entries."""
GROWTH = 6
"""How many times as many rows each further sample has, roughly. 12: 68 instead of 56 passes over
16,384 x 256; 4: as many, but twice as many over samples."""
NEAREST = 16
"""Rows opened for each leaf. 8: 1,435 searches; 32: 504,000 entries."""
WIDEST = 4.0
"""Windows are at most this multiple of their median: without a limit a few leaves that hardly any
row is near to open nearly all entries, 3 times as many at 1,024 x 64. 2: 773 searches; 8: 348,000
entries."""
WIDER = 4.0
"""Factor by which the windows of leaves without a path out widen. 2: 710 searches; 8: 361,000
entries."""
TOO_MANY = 0.25
"""Share of the open rows: if more are suboptimal after the exchanges, these are undone and windows
widen. Half as much: the same; twice: 369,000 entries."""
ROUNDS_BEFORE_ALL = 24
"""After so many rounds of exchanges every entry of every open row is open, then every row: a bound
on the work. No batch of the benchmark needs 12 rounds."""
MASSES = 0.02
"""Share of all units: if the excess after Newton is more, as with many ties, every row is opened at
once. Half and twice as much: the same in the benchmark, which has no ties."""
UNITS_PER_LEAF = 8
"""The excess must be more than this for each leaf as well, lest a small batch opens every row for a
few units. Half and twice as much: the same in the benchmark."""
ALL = 1 << 20
"""Pairs: of more, not every row is opened at once (some 40 bytes each)."""
STEPS_AT_A_TIME = 100_000
"""Moves between two looks at the clock: some tenths of a second at 64 experts. More make a time
limit late; each look sets up the arcs anew."""


@dataclass
class Counts:
    """What the search took: passes over all rows, exchanges and their parts."""

    passes: int = 0
    rounds: int = 0
    paths: Array = field(default_factory=lambda: np.zeros(4, np.int64))
    log: list[Any] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class SearchResult:
    """What the search found: amounts and node prices, or the nodes of a cut, or neither in time."""

    x: Tensor | None
    price: Array
    cut: Array | None
    counts: Counts


def prices(
    rows: AnyRows, tree: Tree, price: Array | None, seed: int, steps: int, finest: float
) -> tuple[Array, Array, float]:
    """Prices of the nodes, from samples of growing size or those given; loads; a unit of score."""
    T, E = rows.shape
    size = T if rows.uneven else min(T, max(FIRST, 4 * E))  # few rows may hold most of the units
    order = np.random.default_rng(seed).permutation(T) if size < T else np.arange(T)
    sample = Sample(rows.take(np.sort(order[:size])).here(), finest)
    if price is None:
        price = sample.first_prices(tree)
        levels = max(1, round(np.log(T / size) / np.log(GROWTH))) if size < T else 0
        for level in range(levels):
            some = int(size * (T / size) ** (level / levels))
            price, _ = newton_steps(rows.take(np.sort(order[:some])), sample, tree, price)
    return *newton_steps(rows, sample, tree, sample.rounded(price), steps), sample.unit


@dataclass
class Flow:
    """Where the search stands: what units pay at each node, flows to the parents, the excess."""

    price: Array
    flow: Array
    excess: Array

    def copy(self) -> "Flow":
        """A copy."""
        return Flow(self.price.copy(), self.flow.copy(), self.excess.copy())


@dataclass
class Windows:
    """By how much a leaf's price may rise and fall before entries outside could change hands."""

    up: Array
    down: Array


def search(
    rows: AnyRows,
    tree: Tree,
    price: Array | None,
    seed: int = 0,
    deadline: float = np.inf,
    enough: Callable[[Tensor, Array], bool] | None = None,
    steps: int = STEPS,
    finest: float = 0.0,
) -> SearchResult:
    """The optimum of the rows under the bounds of the tree; see the head of this file.

    Args:
        rows: the tokens.
        tree: the bounds.
        price: float64 (V - 1,) of the nodes to start from; None for samples.
        seed: of the samples.
        deadline: of `time.perf_counter`.
        enough: whether feasible amounts and prices of the nodes will do.
        steps: Newton steps on all rows at most.
        finest: prices are to be whole multiples of this power of two, as all scores are.
    """
    counts = Counts()
    price, load, unit = _first_prices(rows, tree, price, seed, steps, finest)
    counts.passes = rows.passes
    initial = leaf_price = tree.leaf_prices(price)
    x, load = rows.place(leaf_price, tree.upper[: tree.leaves])
    state = initial_state(tree, price, load)
    opened, windows = _opened(rows, tree, state)
    while True:
        counts.rounds += 1
        at = np.flatnonzero(opened)
        before = state.copy()
        some = OpenRows(rows.read(at, x, opened), leaf_price, windows)
        held = rows_of(x, at)
        status, late = OUT_OF_STEPS, False
        while status == OUT_OF_STEPS and not late:
            status, reached = some.exchanged(tree, state, unit, counts.paths, STEPS_AT_A_TIME)
            late = rows.total(time.perf_counter() > deadline) > 0
        leaf_price = state.price[: tree.leaves].copy()
        some.write(at, x)
        reach = float(np.ptp(leaf_price - initial))
        wrong = rows.suboptimal(leaf_price, reach, opened, x, some.exact)
        many, entered = rows.total(len(wrong)), (len(some.held), len(some.leaf))
        counts.log.append((*entered, int(np.maximum(before.excess, 0).sum()), status, many))
        if status == DONE and (not many or (enough and enough(x, tree.own(state.price)))):
            return SearchResult(x, tree.own(state.price), None, counts)
        if late:
            return SearchResult(None, tree.own(state.price), None, counts)
        all_open = rows.total(int((opened < 2).sum())) == 0
        if status == NO_PATH and (all_open or not reached[: tree.leaves].any()):
            return SearchResult(None, tree.own(state.price), reached, counts)
        widened = reached[: tree.leaves] & (status == NO_PATH)
        if many > TOO_MANY * (len(some.held) + tree.leaves):
            rise = leaf_price - before.price[: tree.leaves]
            widened |= rise - min(0.0, float(np.median(rise))) > windows.up
            widened |= not widened.any()
            put(x, at, held)
            state = before
            leaf_price = state.price[: tree.leaves].copy()
        elif many:
            opened[wrong] = 2
            rechoose(rows, wrong, x, leaf_price, state)
        if widened.any():
            windows.up[widened] *= WIDER
            rows.open_candidates(leaf_price, windows.up, windows.down, widened, opened, x)
            stuck = len(counts.log) > 1 and entered == counts.log[-2][:2]
            if stuck or counts.rounds > ROUNDS_BEFORE_ALL:
                opened[:] = 2


def _first_prices(
    rows: AnyRows, tree: Tree, price: Array | None, seed: int, steps: int, finest: float
) -> tuple[Array, Array, float]:
    """`prices`, from samples also where those given turn out to be of no use."""
    found = prices(rows, tree, price, seed, steps, finest)
    if price is None or not steps:
        return found
    excess = excess_at(tree, found[0], found[1], rows.units)
    useless = np.abs(excess).sum() > MASSES * tree.units
    return prices(rows, tree, None, seed, steps, finest) if useless else found


def _opened(rows: AnyRows, tree: Tree, state: Flow) -> tuple[Array, Windows]:
    """The rows that are open at first, uint8 (T,), 2 for all of a row's entries; the windows."""
    opened, window = rows.closest(NEAREST)
    usual = float(np.median(window[window > 0])) if window.any() else 0.0
    window = np.minimum(window, WIDEST * usual)
    much = int(state.excess[state.excess > 0].sum())
    if (
        much > max(MASSES * tree.units, UNITS_PER_LEAF * tree.leaves)
        and math.prod(rows.shape) <= ALL
    ):
        opened[:] = 2
    return opened, Windows(window, window.copy())


def largest_cut(rows: AnyRows, tree: Tree) -> Array | None:
    """Nodes (V,) that hold more than bounds let out, by the most there is; None if all bounds hold.

    All rows are open, and amounts move as far as they can. The nodes that the rest reaches are the
    cut (max-flow min-cut).

    Args:
        rows: tokens with scores of 0 and -inf.
        tree: the bounds, not narrowed to what others imply.
    """
    free = np.zeros(tree.leaves)
    rows.respond(free)
    x, load = rows.place(free, tree.upper[: tree.leaves])
    state = initial_state(tree, np.zeros(tree.root), load)
    everything = rows.read(np.arange(len(rows)), x, np.full(len(rows), 2, np.uint8))
    some = OpenRows(everything, free, Windows(free, free))
    status, reached = some.exchanged(tree, state, 1.0, np.zeros(4, np.int64), 1 << 62)
    return reached if status == NO_PATH else None


def initial_state(tree: Tree, price: Array, load: Array) -> Flow:
    """Flows that prices allow, and what is then too much or too little at each node."""
    paid = np.append(price, 0.0)
    for node in range(tree.root - 1, -1, -1):
        paid[node] += paid[tree.parent[node]]
    flow = np.zeros(tree.root + 1, np.int64)
    excess = np.zeros(tree.root + 1, np.int64)
    arriving = np.zeros(tree.root + 1, np.int64)
    arriving[: tree.leaves] = load
    for node in range(tree.root):
        low, high = tree.lower[node], tree.upper[node]
        if price[node] > 0:
            flow[node] = high
        elif price[node] < 0:
            flow[node] = low
        else:
            flow[node] = min(max(arriving[node], low), high)
        excess[node] = arriving[node] - flow[node]
        arriving[tree.parent[node]] += flow[node]
    excess[tree.root] = arriving[tree.root] - tree.units
    return Flow(paid, flow, excess)


def rechoose(rows: AnyRows, at: Array, x: Tensor, price: Array, state: Flow) -> None:
    """Rows choose anew at the prices; what that changes is excess."""
    wrong = rows.read(at, x, np.zeros(0, np.uint8))
    some = Rows(torch.from_numpy(wrong.scores), wrong.terms, wrong.null, len(price))
    some.respond(price)
    chosen, load = some.place(price, np.zeros(len(price), np.int64))
    before = np.zeros(len(price), np.int64)
    before[: wrong.held.shape[1]] = wrong.held.sum(0)
    np.add.at(before, wrong.null, wrong.terms[:, 1] - wrong.held.sum(1))
    state.excess[: len(price)] += load - before
    put(x, at, chosen.numpy()[wrong.mine])


class OpenRows:
    """The entries of the open rows, and exchanges among them, in integers where they fit.

    Attributes:
        held: int64 (n, E), what the rows hold.
        exact: whether scores and prices are whole multiples of the grid.
    """

    def __init__(self, read: Read, price: Array, windows: Windows) -> None:
        self.held, self.mine = read.held, read.mine
        given = read.scores, price, windows.up, windows.down
        row = read.whole, read.terms, read.null, read.held
        self.first, self.leaf, self.value, self.amount, self.cap = entries(*given, *row)

    def write(self, at: Array, x: Tensor) -> None:
        """What this process's rows hold, put into x."""
        put(x, at, self.held[self.mine])

    def exchanged(
        self, tree: Tree, state: Flow, unit: float, paths: Array, steps: int
    ) -> tuple[int, Array]:
        """Exchanges until every bound holds; `held` and the state follow.

        Args:
            unit: a power of two about the largest score.
            paths: counts that are added to.
            steps: moves at most.
        """
        grid = unit * 2.0**-GRID
        value, price = np.rint(self.value / grid), np.rint(state.price / grid)
        largest = max(np.abs(value).max(initial=0.0), np.abs(price).max())
        self.exact = bool(
            largest < 2.0 ** (GRID + 3)
            and (value * grid == self.value).all()
            and (price * grid == state.price).all()
        )
        tree_of_bounds = tree.parent, tree.lower, tree.upper
        limits: tuple[Any, Any]  # what counts as no cost, and more than any cost, in their dtype
        if self.exact:
            value, price = value.astype(np.int64), price.astype(np.int64)
            limits = 0, 1 << 60
        else:
            value, price = self.value, state.price.copy()
            limits = TIE * max(np.abs(value).max(initial=0.0), np.abs(price).max()), np.inf
        entry = self.first, self.leaf, value, self.amount, self.cap
        status, reached = exchange(
            *entry, price, state.flow, state.excess, *tree_of_bounds, *limits, steps, paths
        )
        state.price = price * grid if self.exact else price
        put_back(self.first, self.leaf, self.amount, self.held)
        return status, reached
