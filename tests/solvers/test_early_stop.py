"""Stopped by the clock: the best assignment and bound so far, always feasible."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings

import lp_routing as lpr
from lp_routing.solvers import SolverResult, SolverStatus
from lp_routing.solvers.min_cost_flow import feasible_assignment
from tests import kkt
from tests.strategies import problems


class OutOfTime(lpr.solvers.Solver):
    """Stops at once with what it is given."""

    def __init__(self, x=None, prices=None):
        self.x, self.prices = x, prices

    def answer(self, problem, *, integral=False):
        return SolverResult(SolverStatus.TIME_LIMIT, self.x, self.prices, said="out of time")


@pytest.mark.parametrize(
    "stated", [lpr.problems.balanced, lambda s, k: lpr.problems.capacity(s, k, 130)]
)
def test_highs_at_its_time_limit_leaves_a_feasible_assignment_and_a_bound(stated):
    scores = torch.rand(2048, 32, generator=torch.Generator().manual_seed(0))
    problem = stated(scores, 2)
    solution = lpr.solve(problem, lpr.HiGHS(time_limit_s=1e-4))
    assert solution.status is lpr.Status.TIME_LIMIT
    assert kkt.primal_feasibility(problem, solution.assignment.x) == 0
    assert 0 < solution.certificate.relative_gap < 0.1
    assert "Time limit" in solution.explanation


def test_a_solver_with_nothing_in_hand_still_yields_an_assignment():
    problem = lpr.problems.capacity([[3, 1], [2, 1]], 1, 1)
    solution = lpr.solve(problem, OutOfTime())
    assert solution.status is lpr.Status.TIME_LIMIT
    assert (solution.value, solution.bound) == (4, 5)


def test_a_worse_or_broken_assignment_in_hand_is_replaced():
    problem = lpr.problems.capacity([[3, 1], [2, 1]], 1, 1)
    for x in (np.zeros((2, 2)), np.ones((2, 2)), np.array([[0.5, 0], [0, 0]])):
        assert lpr.solve(problem, OutOfTime(x)).value == 4


def test_an_optimal_assignment_with_its_proof_is_optimal_however_it_was_stopped():
    # the largest score is below 1 and above 1/2, so a solver sees the scores unscaled
    problem = lpr.problems.capacity([[0.75, 0.25], [0.5, 0.25]], 1, 1)
    prices = lpr.Prices(experts=torch.tensor([0.375, 0.0]))
    solution = lpr.solve(problem, OutOfTime(np.array([[1.0, 0], [0, 1]]), prices))
    assert solution.status is lpr.Status.OPTIMAL


def test_an_impossible_problem_has_no_assignment_at_a_time_limit_either():
    problem = lpr.RoutingProblem(torch.ones(3, 1), tokens=lpr.exactly(1), experts=lpr.at_most(2))
    solution = lpr.solve(problem, OutOfTime())
    assert solution.status is lpr.Status.TIME_LIMIT
    assert solution.assignment is None
    assert solution.value == float("-inf")


@given(problems())
@settings(max_examples=150)
def test_a_feasible_assignment_is_found_exactly_where_there_is_one(problem):
    found = feasible_assignment(problem, lpr.Prices())
    possible = lpr.solve(problem).status is lpr.Status.OPTIMAL
    assert (found is not None) == possible
    if found is not None:
        assert kkt.primal_feasibility(problem, found) == 0


def test_bounds_that_are_fractions_are_rounded_inwards():
    half = lpr.RoutingProblem(
        [[3, 2], [2, 1]], tokens=lpr.at_most(1.5), experts=lpr.between(0.5, 1.5)
    )
    found = lpr.solve(half, OutOfTime())
    assert found.status is lpr.Status.TIME_LIMIT
    assert found.value == 4
    assert kkt.primal_feasibility(half, found.assignment.x) == 0
    nothing = lpr.RoutingProblem([[3, 2]], tokens=lpr.between(0.2, 0.8))
    assert lpr.solve(nothing, OutOfTime()).assignment is None


def test_where_groups_cross_nothing_is_tried():
    groups = [([0, 1], lpr.at_most(1)), ([1, 2], lpr.at_most(1))]
    crossing = lpr.solve(lpr.RoutingProblem([[3, 2, 1]], expert_groups=groups), OutOfTime())
    assert crossing.status is lpr.Status.TIME_LIMIT
    assert crossing.assignment is None
    assert crossing.bound < float("inf")


def test_more_copies_than_fit_32_bits_are_no_obstacle():
    problem = lpr.RoutingProblem(
        -torch.ones(2, 2), tokens=lpr.at_least(1), multiplicity=[2**40, 2**40]
    )
    assert feasible_assignment(problem, lpr.Prices()).sum() == 2


def test_a_stopped_solver_leaves_nearly_the_optimum_of_a_skewed_balanced_problem():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(512, 4, generator=generator) @ torch.randn(4, 16, generator=generator)
    problem = lpr.problems.balanced(torch.softmax(logits, 1), 2)
    best = lpr.solve(problem)
    assert lpr.solve(problem, OutOfTime()).value > 0.8 * best.value
    assert lpr.solve(problem, OutOfTime(prices=best.prices)).value > 0.8 * best.value
