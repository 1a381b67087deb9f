"""One assignment judged by a problem: what routers are built for, exact gaps, overlap, loads."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import lp_routing as lpr
from lp_routing.evaluation.evaluate import Evaluator, shape_of
from lp_routing.routers import Shape

# Both tokens like expert 0, which has one place; token 1 would miss it more: 2 + 3.
PROBLEM = lpr.problems.capacity([[4.0, 2.0], [3.0, 0.0]], 1, 1)
BEST = torch.tensor([[0, 1], [1, 0]], dtype=torch.bool)
NAMES = ["capacity", "token", "expert", "capped", "unified", "served", "balanced", "none", "zero"]
NAMES += ["uneven"]
WIDE = torch.ones(12, 4)


@pytest.mark.parametrize(
    ("problem", "shape"),
    [
        (lpr.problems.capacity(WIDE, 2, 7), Shape(2, 7, 12, 4)),
        (lpr.problems.token_choice(WIDE, 3), Shape(3, 12, 12, 4)),
        (lpr.problems.expert_choice(WIDE, 6), Shape(2, 6, 12, 4)),
        (lpr.problems.capped_expert_choice(WIDE, 6, 4), Shape(2, 6, 12, 4)),
        (lpr.problems.unified(WIDE, 24), Shape(2, 12, 12, 4)),
        (lpr.problems.served_unified(WIDE, 24), Shape(2, 12, 12, 4)),
        (lpr.problems.balanced(WIDE, 2), Shape(2, 6, 12, 4)),
        (lpr.RoutingProblem(WIDE), Shape(4, 12, 12, 4)),
        (lpr.problems.capacity(WIDE, 0, 0), Shape(1, 0, 12, 4)),
        # 3 + 1 + 5 + 2 = 11 places for 12 tokens: k = 1; a router gives every expert the most, 5
        (lpr.RoutingProblem(WIDE, experts=lpr.at_most([3, 1, 5, 2])), Shape(1, 5, 12, 4)),
    ],
    ids=NAMES,
)
def test_the_shape_for_routers_is_read_off_the_bounds(problem, shape):
    assert shape_of(problem) == shape


def test_a_gap_that_rounding_would_hide_is_found():
    # Token 0 is worth 2^53, beside which float64 cannot tell token 1's 1 from its half.
    problem = lpr.problems.token_choice(np.array([[2.0**53, 0.0], [1.0, 0.5]]), 1)
    judge = Evaluator(problem, lpr.solve(problem))
    other = judge.judged(judge.nothing("second"), torch.tensor([[1, 0], [0, 1]]))
    assert (other.gap, other.relative_gap) == (0.5, 0.5 / 2**53)


def test_the_optimum_has_no_gap_where_rounding_would_show_one():
    # The best is 0.1 + 0.7 at any price of expert 0 from 0.2 to 0.5. Float64 makes the bound of
    # it 0.1 + 0.5 + 0.2 at 0.2, one rounding more.
    problem = lpr.problems.capacity(np.array([[0.3, 0.1], [0.7, 0.2]]), 1, 1)
    solution = lpr.solve(problem)
    best = torch.tensor([[0, 1], [1, 0]])
    prices = lpr.Prices(experts=np.array([0.2, 0.0]))
    assert lpr.certify(problem, best, prices).gap != 0
    judge = Evaluator(problem, replace(solution, prices=prices))
    row = judge.judged(judge.nothing("best"), best)
    assert (row.gap, row.relative_gap) == (0, 0)


def test_amounts_below_0_by_rounding_are_judged():
    # As an interior-point method leaves them: expert 1 has nothing, not less.
    judge = Evaluator(PROBLEM, lpr.solve(PROBLEM))
    amounts = torch.tensor([[0.0, -1e-12], [1.0, 0.0]], dtype=torch.float64)
    row = judge.judged(judge.nothing("interior"), amounts)
    assert (row.status, row.max_over_mean, row.load_entropy) == ("ok", 2, 0)


def test_the_overlap_is_a_share_of_the_optimums_pairs():
    # Of the optimum's two pairs a router that takes token 0's alone has one, whatever else it left.
    judge = Evaluator(PROBLEM, lpr.solve(PROBLEM))
    row = judge.judged(judge.nothing("half"), torch.tensor([[0, 1], [0, 0]]))
    assert (row.value, row.overlap) == (2, 0.5)
    assert judge.judged(judge.nothing("best"), BEST).overlap == 1


def test_a_judge_refuses_what_is_no_assignment():
    judge = Evaluator(PROBLEM, lpr.solve(PROBLEM))
    with pytest.raises(lpr.InputError, match="amounts of shape"):
        judge.judged(judge.nothing("x"), torch.ones(2, 3))
