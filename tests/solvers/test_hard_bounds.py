"""Bounds that are hard on prices: ties under groups and budgets, nested groups, real supplies."""

import numpy as np
import pytest
import torch

import lp_routing as lpr
from lp_routing import at_least, at_most, between, exactly, groups_by
from tests import kkt
from tests.solvers.test_hard_cases import DATA, GRID, few_allowed, integers, skewed, stated

INF = float("inf")


def equal(T, E, value=1.0, forbidden=0.0):
    """One score for all pairs, some of which are forbidden."""
    generator = torch.Generator().manual_seed(4)
    scores = torch.full((T, E), value).double()
    return scores.masked_fill(torch.rand(T, E, generator=generator) < forbidden, -INF)


def sequences(T, count, bounds):
    """Every token in one of `count` sequences, the last of which is longer."""
    return groups_by([min(i * (count + 1) // T, count - 1) for i in range(T)], bounds)


def nested(T, parts, inner, outer):
    """Documents of equal length, and the first half of all of them."""
    half = lpr.Group(range(T // 2), outer, "first half")
    return [*groups_by([i * parts // T for i in range(T)], inner), half]


def copies(rows, most, seed=3):
    return torch.randint(1, most, (rows,), generator=torch.Generator().manual_seed(seed))


CASES = {
    # all scores equal: every assignment of the right size is optimal, and no price tells them apart
    "equal, a budget for 10 tokens": lambda: lpr.RoutingProblem(
        equal(10, 2), tokens=at_most(1), token_groups=[(range(10), at_most(8))]
    ),
    "equal, sequences": lambda: lpr.RoutingProblem(
        equal(700, 3), tokens=at_most(1), token_groups=sequences(700, 3, between(87, 163))
    ),
    "equal, a budget and forbidden pairs": lambda: lpr.RoutingProblem(
        equal(30, 40, 0.3, 0.3),
        tokens=between([0, 1] * 15, 4),
        experts=at_most(9),
        total=exactly(47),
    ),
    # token 1 must take one: its price falls as fast as the price of the budget rises
    "equal, a budget above what some must take": lambda: lpr.RoutingProblem(
        equal(2, 40, 0.3), tokens=between([0, 1], 4), total=exactly(3)
    ),
    "equal, exact loads": lambda: lpr.RoutingProblem(
        equal(300, 40, 0.25), tokens=at_least(1), experts=exactly(29)
    ),
    "equal, floors under sequences": lambda: lpr.RoutingProblem(
        equal(1500, 16),
        experts=between(498, 1125),
        token_groups=groups_by([i % 2 for i in range(1500)], between([3290, 4798], [5428, 6706])),
    ),
    "equal and negative, floors": lambda: lpr.RoutingProblem(
        equal(1500, 16, -1.0), tokens=at_most(8), experts=between(498, 1125)
    ),
    "zeros": lambda: stated(equal(1000, 16, 0.0), 2, 1.0),
    "integers, devices and a budget": lambda: lpr.RoutingProblem(
        integers(1000, 16) - 1,
        tokens=between(1, 4),
        experts=at_most(200),
        total=at_most(2100),
        expert_groups=groups_by([j // 4 for j in range(16)], between(400, 600)),
    ),
    "integers, nested sequences": lambda: lpr.RoutingProblem(
        integers(1000, 8),
        tokens=at_most(3),
        experts=at_most(300),
        token_groups=nested(1000, 10, at_most(220), at_most(900)),
    ),
    # many tokens, few or many experts
    "8192 tokens": lambda: stated(skewed(8192, 64), 2, 1.25),
    "8192 tokens, tight": lambda: lpr.problems.balanced(skewed(8192, 16), 1),
    "k 8 of 256": lambda: stated(skewed(1024, 256), 8, 1.0),
    "three tokens": lambda: stated(skewed(3, 512), 8, 1.0),
    "free": lambda: lpr.RoutingProblem(skewed(2000, 16) - 0.125),
    "room for nobody": lambda: lpr.problems.capacity(skewed(500, 8), 2, 0),
    # one bound for each
    "a floor for each expert": lambda: lpr.RoutingProblem(
        skewed(2000, 8), tokens=exactly(2), experts=at_least([50 * j for j in range(8)])
    ),
    "no bound on half of the experts": lambda: lpr.RoutingProblem(
        skewed(2000, 8), tokens=exactly(2), experts=at_most([INF, 300] * 4)
    ),
    "nested devices": lambda: lpr.RoutingProblem(
        skewed(1500, 16),
        tokens=exactly(2),
        experts=at_most(400),
        expert_groups=[
            *groups_by([j // 4 for j in range(16)], at_most(900)),
            lpr.Group(range(8), between(1400, 1500), "a node"),
        ],
    ),
    "nested sequences": lambda: lpr.RoutingProblem(
        skewed(1500, 16),
        tokens=between(1, 4),
        token_groups=nested(1500, 30, between(80, 130), at_most(1700)),
    ),
    "a token nowhere allowed": lambda: lpr.RoutingProblem(
        torch.cat([torch.full((1, 32), -INF), few_allowed(999, 32, 4)]),
        tokens=at_most(2),
        experts=at_most(70),
    ),
    # rows that stand for many tokens
    "thousands of copies, ties": lambda: lpr.RoutingProblem(
        integers(300, 8),
        tokens=at_most(2 * copies(300, 3000)),
        experts=at_most(int(copies(300, 3000).sum()) // 5),
        multiplicity=copies(300, 3000),
    ),
    "copies under sequences": lambda: lpr.RoutingProblem(
        skewed(300, 8),
        tokens=between(copies(300, 50), 2 * copies(300, 50)),
        experts=at_most(int(copies(300, 50).sum()) // 5),
        token_groups=sequences(300, 5, at_most(2600)),
        multiplicity=copies(300, 50),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_optimum_is_whole_and_exact(name):
    problem = CASES[name]()
    solution = lpr.solve(problem, lpr.MinCostFlow())
    assert solution.status is lpr.Status.OPTIMAL, solution.explanation
    if "equal" in name:
        assert solution.value == lpr.solve(problem).value
    assert kkt.primal_feasibility(problem, solution.assignment.x) == 0
    assert kkt.dual_sign(problem, solution.prices) == 0
    exact = lpr.certify(problem, solution.assignment, solution.prices, exact=True)
    assert (exact.gap, exact.violation) == (0, 0)


@pytest.mark.parametrize(
    ("bounds", "short"),
    [
        ({"tokens": exactly(2), "experts": at_most([124] + [125] * 15)}, 1),
        ({"tokens": exactly(2), "experts": at_most(62)}, 1008),  # half, and a little less
        ({"experts": at_least(250), "tokens": at_most(5), "total": at_most(3999)}, 1),
        ({"tokens": at_least(2), "token_groups": [(range(50), at_most(99))]}, 1),
        ({"tokens": at_most(2), "expert_groups": [([0, 1], exactly(1999))]}, 0),
        ({"tokens": at_most(2), "expert_groups": [([0, 1], exactly(2001))]}, 1),
    ],
    ids=["a slot", "half", "budget", "sequence", "device that fits", "device"],
)
def test_what_is_missing_is_told_to_the_slot(bounds, short):
    solution = lpr.solve(lpr.RoutingProblem(skewed(1000, 16), **bounds), lpr.MinCostFlow())
    assert (solution.status is lpr.Status.INFEASIBLE) == (short > 0), solution.explanation
    if short:
        assert solution.infeasibility.shortfall == short
        assert f": {short} short" in solution.explanation


@pytest.mark.skipif(not DATA.exists(), reason="real counts are not at hand")
@pytest.mark.parametrize("file", ["olmoe_1b_7b_github", "olmoe_1b_7b_wikipedia"])
@pytest.mark.parametrize("layer", [0, 7, 15])
def test_real_supplies_of_token_types(file, layer):
    # a row is a type of token: it occurs f times, takes 8 f experts and each at most f times
    with np.load(DATA / f"{file}.npz") as counts:
        taken = torch.as_tensor(counts[f"counts_L{layer}"].astype(np.int64))[:1500]
    often = taken.sum(1) // 8
    taken, often = taken[often > 0], often[often > 0]
    scores = (torch.log(taken / often[:, None].double()) * GRID).round() / GRID
    scores = scores.masked_fill(taken == 0, -8)  # never seen there, but allowed
    capacity = -(-5 * 8 * int(often.sum()) // (4 * 64))
    problem = lpr.RoutingProblem(
        scores, tokens=exactly(8 * often), experts=at_most(capacity), multiplicity=often
    )
    solution = lpr.solve(problem, lpr.MinCostFlow())
    assert solution.status is lpr.Status.OPTIMAL, solution.explanation
    exact = lpr.certify(problem, solution.assignment, solution.prices, exact=True)
    assert (exact.gap, exact.violation) == (0, 0)
    assert bool((solution.assignment.x <= often[:, None]).all())
