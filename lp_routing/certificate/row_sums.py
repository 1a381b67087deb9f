"""The certificate's sums over rows in one compiled pass: whole amounts, scores in memory.

The same sums as `certificate.token_sums` makes chunk by chunk with torch, several times as fast.
Broken bounds are only counted here; where there are any, the torch code runs again and names them.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

from lp_routing.problem.problem import RoutingProblem

Array = np.ndarray[Any, np.dtype[Any]]

BLOCK = 256
"""Rows added up one after the other before their sum joins those of the other blocks.

Long chains of additions round more. Of a million rows of 16 experts `worth` is off by 4e-15 of
itself with 256, 6e-15 with 4,096, 1e-13 with 1 and 2e-12 with all rows in one block; the time is
the same.
"""
WIDE = (torch.float32, torch.float64)
WHOLE = (torch.bool, torch.uint8, torch.int32, torch.int64)


class RowSums(NamedTuple):
    """Sums over all rows: what they earn at the prices, and what an assignment takes.

    Attributes:
        worth, magnitude: earned, prices paid; and the sum of the sizes added up to it.
        value, size: sums of s x and |s| x.
        load: float64 (E,).
        broken: how many pairs and rows break their bounds, or cannot meet them.
    """

    worth: float
    magnitude: float
    value: float
    size: float
    load: Array
    broken: int


def row_sums(problem: RoutingProblem, x: Tensor | None, on_experts: Tensor) -> RowSums | None:
    """The sums at prices (E,); None for types, devices or bounds that the kernels do not take."""
    scores = problem.scores
    kinds = scores.dtype in WIDE and (x is None or x.dtype in WHOLE)
    here = scores.device.type == "cpu" and (x is None or x.device.type == "cpu")
    if not (kinds and here and scores.is_contiguous() and (x is None or x.is_contiguous())):
        return None
    single = any(problem.family(kind) is not None for kind in ("token_group", "row"))
    if single or not problem.T:
        return None
    family = problem.family("token")
    lower, upper = problem.token_bounds() if family is not None else (torch.zeros(1), torch.ones(1))
    must, may = _each(lower), _each(upper if family is not None else upper * float("inf"))
    copies = _each(problem.copies()) if problem.multiplicity is not None else np.ones(1)
    amounts = np.zeros((0, problem.E), np.uint8) if x is None else x.view(_plain(x)).numpy()
    ranks = int(min(problem.E, np.ceil(np.max(may / copies, initial=0.0))))
    paid = on_experts.cpu().numpy()
    load = np.zeros(problem.E)
    sums = np.zeros((-(-problem.T // BLOCK), 4))
    bounded = family is not None
    broken = _row_sums(scores.numpy(), paid, must, may, copies, amounts, ranks, bounded, load, sums)
    worth, magnitude, value, size = map(float, sums.sum(0))
    return RowSums(worth, magnitude, value, size, load, broken)


def _each(values: Tensor) -> Array:
    """Float64 (T,), or (1,) where all rows have the same value."""
    alike = len(values) > 0 and bool((values == values[0]).all())
    return values[:1].double().numpy() if alike else values.double().numpy()


def _plain(x: Tensor) -> torch.dtype:
    return torch.uint8 if x.dtype == torch.bool else x.dtype


@njit(cache=True, nogil=True)
def _row_sums(scores, paid, must_of, may_of, copies_of, x, ranks, bounded, load, sums):
    """Add up all rows into `load` (E,) and, by block, `sums` (blocks, 4); count what is broken."""
    worths, prices = np.empty(ranks + 1), np.empty(ranks + 1)
    broken = 0
    for i in range(len(scores)):
        must = must_of[i if len(must_of) > 1 else 0]
        may = may_of[i if len(may_of) > 1 else 0]
        copies = copies_of[i if len(copies_of) > 1 else 0]
        into = sums[i // BLOCK]
        if bounded:
            kept = _best(scores[i], paid, ranks, worths, prices)
            broken += _earn_bounded(worths[:kept], prices[:kept], must, may, copies, into)
        else:
            _earn_all(scores[i], paid, copies, into)
        if len(x):
            taken, wrong = _take(scores[i], x[i], copies, load, into)
            broken += wrong + (bounded and (taken < must or taken > may))
    return broken


@njit(cache=True, nogil=True)
def _best(scores, paid, ranks, worths, prices):
    """Put scores and prices of the `ranks` best pairs of a row in order, best first; how many."""
    kept, worst = 0, -np.inf
    for j in range(len(scores)):
        a = scores[j] - paid[j]
        if ranks > 0 and (a > worst or (kept < ranks and a > -np.inf)):
            at = min(kept, ranks - 1)
            kept = at + 1
            while at > 0 and worths[at - 1] - prices[at - 1] < a:
                worths[at], prices[at] = worths[at - 1], prices[at - 1]
                at -= 1
            worths[at], prices[at] = scores[j], paid[j]
            if kept == ranks:
                worst = worths[ranks - 1] - prices[ranks - 1]
    return kept


@njit(cache=True, nogil=True)
def _earn_bounded(worths, prices, must, may, copies, into):
    """Add what a row earns by its best pairs; whether they are too few for its lower bound."""
    left, need = may, must
    for r in range(len(worths)):
        earns = worths[r] - prices[r] > 0
        if not earns and need <= 0:
            break
        units = min(copies, left if earns else min(left, need))
        into[0] += units * worths[r] - units * prices[r]
        into[1] += units * (abs(worths[r]) + abs(prices[r]))
        left -= units
        need -= units
    return need > 0


@njit(cache=True, nogil=True)
def _earn_all(scores, paid, copies, into):
    """Add what a row without bounds earns: every pair that is worth more than its price."""
    for j in range(len(scores)):
        if scores[j] > paid[j]:
            into[0] += copies * scores[j] - copies * paid[j]
            into[1] += copies * (abs(scores[j]) + abs(paid[j]))


@njit(cache=True, nogil=True)
def _take(scores, x, copies, load, into):
    """Add what a row takes; its amounts in all, and how many of its pairs are broken."""
    taken, broken = 0.0, 0
    for j in range(len(x)):
        if x[j] != 0:
            amount = np.float64(x[j])
            taken += amount
            load[j] += amount
            if amount < 0 or amount > copies or scores[j] == -np.inf:
                broken += 1
            else:
                into[2] += amount * scores[j]
                into[3] += amount * abs(scores[j])
    return taken, broken
