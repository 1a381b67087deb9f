"""Faults planted in the kernels of `MinCostFlow`: what comes of them is never called OPTIMAL.

The search trusts its kernels; `solve` does not, as it certifies what comes back.
"""

import numpy as np
import pytest
import torch

import lp_routing as lpr
from benchmarks.scores import skewed_scores
from lp_routing.solvers.min_cost_flow import MinCostFlow, exchange, rows
from lp_routing.solvers.min_cost_flow.exchange import NO_PATH

ENGINE = "lp_routing.solvers.min_cost_flow"
KERNELS = {
    "exchange": (exchange.exchange, f"{ENGINE}.search.exchange"),
    "respond": (rows.respond, f"{ENGINE}.rows.respond"),
    "spread": (rows.spread, f"{ENGINE}.rows.spread"),
    "place": (rows.place, f"{ENGINE}.rows.place"),
}


def skewed():
    """Prices decide nearly everything; a few exchanges do the rest."""
    scores = skewed_scores(256, 8, 0)
    return lpr.RoutingProblem(scores, tokens=lpr.exactly(2), experts=lpr.at_most(64))


def ties():
    """Most rows do not mind, so that `spread` decides."""
    scores = torch.rand(256, 8, generator=torch.Generator().manual_seed(0)).lt(0.5).float()
    return lpr.RoutingProblem(scores, tokens=lpr.exactly(2), experts=lpr.at_most(64))


# Each fault gets a kernel's arguments and what it returned, changes arrays, and returns something.


def loses_a_unit(arguments, found):
    amounts = arguments[3]
    amounts[amounts.argmax()] -= 1
    return found


def swaps_two_prices(arguments, found):
    price = arguments[5]
    dear, cheap = price[:8].argmax(), price[:8].argmin()
    price[[dear, cheap]] = price[[cheap, dear]]
    return found


def raises_a_price(arguments, found):
    arguments[5][0] += 1 + abs(arguments[5]).max() // 8
    return found


def swaps_two_rows(arguments, found):
    """Two rows trade places: loads stay right, and both rows may lose by it."""
    first, leaf, _, amount = arguments[:4]
    row = np.repeat(np.arange(len(first) - 1), np.diff(first))
    entry = {(row[w], leaf[w]): w for w in range(len(row))}
    for (i, j), w in entry.items():
        for (k, m), x in entry.items():
            other, back = entry.get((i, m)), entry.get((k, j))
            if amount[w] and amount[x] and other and back and not amount[other] + amount[back]:
                amount[[w, x]], amount[[other, back]] = 0, 1
                return found
    return found


def finds_no_way(_, found):
    return NO_PATH, np.ones_like(found[1])


def counts_one_too_many(arguments, found):
    load = arguments[9]
    load[0] += 1
    return found


def takes_the_second_best(arguments, found):
    """Row 0 has its best and its third best expert, and says that nothing else comes near."""
    best, margin = arguments[4], arguments[7]
    best[0] = np.roll(best[0], 1)
    margin[0] = 1e9
    return found


def sees_no_margins(arguments, found):
    arguments[7][:] = 1e9
    return found


def drops_a_unit_of_row_0(arguments, found):
    x = arguments[-2]
    x[0, x[0].argmax()] = 0
    return found


def moves_a_unit_of_row_0(arguments, found):
    x = arguments[-2]
    x[0] = x[0][::-1].copy() if (x[0] != x[0][::-1]).any() else np.roll(x[0], 1)
    return found


def places_a_unit_twice(arguments, found):
    x = arguments[-1]
    x[0, x[0].argmin()] += 1
    return found


FAULTS = [
    ("exchange", loses_a_unit, skewed),
    ("exchange", swaps_two_prices, skewed),
    ("exchange", raises_a_price, skewed),
    ("exchange", swaps_two_rows, skewed),
    ("exchange", finds_no_way, skewed),
    ("respond", counts_one_too_many, skewed),
    ("respond", takes_the_second_best, skewed),
    ("respond", sees_no_margins, skewed),
    ("spread", drops_a_unit_of_row_0, ties),
    ("spread", moves_a_unit_of_row_0, ties),
    ("place", places_a_unit_twice, skewed),
]


@pytest.mark.parametrize("problem", [skewed, ties])
def test_without_a_fault_both_problems_are_solved(problem):
    assert lpr.solve(problem(), MinCostFlow(time_limit_s=60)).status is lpr.Status.OPTIMAL


@pytest.mark.parametrize(
    ("kernel", "fault", "problem"), FAULTS, ids=[f"{k}-{f.__name__}" for k, f, _ in FAULTS]
)
def test_a_fault_in_a_kernel_is_no_optimum(kernel, fault, problem, monkeypatch):
    right, name = KERNELS[kernel]
    monkeypatch.setattr(name, lambda *arguments: fault(arguments, right(*arguments)))
    solution = lpr.solve(problem(), MinCostFlow(time_limit_s=5), tolerance=1e-12)
    assert solution.status not in (lpr.Status.OPTIMAL, lpr.Status.INFEASIBLE)


def one_row_a_leaf(rows, _want):
    """Far too few open rows, with windows that let everything change hands."""
    opened = np.zeros(len(rows), np.uint8)
    opened[::3] = 1
    return opened, np.full(rows.leaves, 10.0)


def no_prices(rows, _sample, tree, _price, _steps=0):
    """All prices 0, instead of those that nearly fit."""
    return np.zeros(tree.root), rows.respond(np.zeros(tree.leaves))


def test_rows_that_are_never_checked_are_no_optimum(monkeypatch):
    """From useless prices and few open rows, a search that skips its check ends too soon."""
    scores = skewed_scores(4096, 16, 3)
    problem = lpr.RoutingProblem(scores, tokens=lpr.exactly(2), experts=lpr.at_most(512))
    monkeypatch.setattr(f"{ENGINE}.cpu.Rows.closest", one_row_a_leaf)
    monkeypatch.setattr(f"{ENGINE}.search.newton_steps", no_prices)
    monkeypatch.setattr(f"{ENGINE}.search.MASSES", 1.0)
    assert lpr.solve(problem, MinCostFlow()).status is lpr.Status.OPTIMAL  # the check mends it
    nobody = np.empty(0, np.int64)
    monkeypatch.setattr(f"{ENGINE}.cpu.Rows.suboptimal", lambda *_: nobody)
    assert lpr.solve(problem, MinCostFlow()).status is not lpr.Status.OPTIMAL
