"""The certificate's sums over rows in one compiled pass: whole amounts, scores in memory.

The same sums as `certificate.token_sums` makes chunk by chunk with torch, several times as fast.
What is broken is only counted: then torch looks again, and names it.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

from lp_routing.problem.problem import RoutingProblem

Array = np.ndarray[Any, np.dtype[Any]]

BLOCK = 256
"""Rows that are added up one after the other; blocks are added in pairs, so that little is lost."""
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
    """The sums at prices (E,); None where scores or amounts are not of the kinds it takes."""
    scores = problem.scores
    kinds = scores.dtype in WIDE and (x is None or x.dtype in WHOLE)
    here = scores.device.type == "cpu" and (x is None or x.device.type == "cpu")
    if not (kinds and here and scores.is_contiguous() and (x is None or x.is_contiguous())):
        return None
    if problem.family("token_group") is not None or not problem.T:
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
    """One number where all rows have the same."""
    alike = len(values) > 0 and bool((values == values[0]).all())
    return values[:1].double().numpy() if alike else values.double().numpy()


def _plain(x: Tensor) -> torch.dtype:
    return torch.uint8 if x.dtype == torch.bool else x.dtype


@njit(cache=True, nogil=True)
def _row_sums(scores, paid, must_of, may_of, copies_of, x, ranks, bounded, load, sums):
    T, E = scores.shape
    worths, prices = np.empty(ranks + 1), np.empty(ranks + 1)
    broken = 0
    for i in range(T):
        block = i // BLOCK
        must = must_of[i if len(must_of) > 1 else 0]
        may = may_of[i if len(may_of) > 1 else 0]
        copies = copies_of[i if len(copies_of) > 1 else 0]
        kept = 0
        if bounded:  # the best, in order; as many as the row may take
            worst = -np.inf
            for j in range(E):
                a = scores[i, j] - paid[j]
                if a > worst or (kept < ranks and a > -np.inf):
                    at = kept
                    if kept == ranks:
                        at = ranks - 1
                        if at < 0:
                            continue
                    else:
                        kept += 1
                    while at > 0 and worths[at - 1] - prices[at - 1] < a:
                        worths[at], prices[at] = worths[at - 1], prices[at - 1]
                        at -= 1
                    worths[at], prices[at] = scores[i, j], paid[j]
                    if kept == ranks:
                        worst = worths[ranks - 1] - prices[ranks - 1]
            left, need = may, must
            for r in range(kept):
                if worths[r] - prices[r] <= 0 and need <= 0:
                    break
                units = min(copies, left)
                if worths[r] - prices[r] <= 0:
                    units = min(units, need)
                sums[block, 0] += units * worths[r] - units * prices[r]
                sums[block, 1] += units * (abs(worths[r]) + abs(prices[r]))
                left -= units
                need -= units
            if need > 0:
                broken += 1
        else:
            for j in range(E):
                if scores[i, j] > paid[j]:
                    sums[block, 0] += copies * scores[i, j] - copies * paid[j]
                    sums[block, 1] += copies * (abs(scores[i, j]) + abs(paid[j]))
        if len(x) == 0:
            continue
        taken = 0.0
        for j in range(E):
            if x[i, j] != 0:
                amount = np.float64(x[i, j])
                taken += amount
                load[j] += amount
                if amount < 0 or amount > copies or scores[i, j] == -np.inf:
                    broken += 1
                else:
                    sums[block, 2] += amount * scores[i, j]
                    sums[block, 3] += amount * abs(scores[i, j])
        if bounded and (taken < must or taken > may):
            broken += 1
    return broken
