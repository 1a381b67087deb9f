"""Pairs at their price: where one optimum may differ from another."""

import torch
from hypothesis import given

import lp_routing as lpr
from lp_routing import at_most, exactly
from tests.strategies import problems


def tied(problem, prices=None, tolerance=0.0):
    return lpr.ties(problem, prices or lpr.Prices(), tolerance).tolist()


def test_equal_scores_at_the_cut_are_tied_and_others_are_not():
    # top-2 of 5, 3, 3, 1: the two threes compete for one place
    assert tied(lpr.problems.token_choice([[5, 3, 3, 1]], 2)) == [[0, 1], [0, 2]]
    assert tied(lpr.problems.token_choice([[5, 4, 3, 1]], 2)) == []


def test_equal_scores_that_are_both_taken_are_not_tied():
    assert tied(lpr.problems.token_choice([[3, 3, 1]], 2)) == []


def test_a_pair_worth_nothing_may_be_taken_or_left():
    assert tied(lpr.RoutingProblem([[2.0, 0.0]], tokens=at_most(2))) == [[0, 1]]
    assert tied(lpr.RoutingProblem([[2.0, 0.0]], tokens=exactly(2))) == []


def test_a_price_makes_a_tie():
    problem = lpr.problems.capacity([[3, 1], [2, 1]], 1, 1)
    assert tied(problem, lpr.Prices(experts=torch.tensor([1.0, 0.0]))) == [[1, 0], [1, 1]]
    assert tied(problem, lpr.Prices(experts=torch.tensor([1.5, 0.0]))) == []


def test_a_tolerance_admits_what_a_solver_rounds():
    problem = lpr.problems.token_choice([[3, 3 - 1e-13, 1]], 1)
    assert tied(problem) == []
    assert tied(problem, tolerance=1e-12) == [[0, 0], [0, 1]]


def test_forbidden_pairs_are_never_tied():
    assert tied(lpr.RoutingProblem([[1.0, float("-inf")]], tokens=at_most(2))) == []


@given(problems(groups=False))
def test_two_optima_differ_on_tied_pairs_only(problem):
    first = lpr.solve(problem)
    if first.status is not lpr.Status.OPTIMAL:
        return
    second = lpr.solve(problem, lpr.HiGHS(simplex_strategy=4))  # primal instead of dual simplex
    differ = (first.assignment.x.double() != second.assignment.x.double()).nonzero().tolist()
    allowed = tied(problem, first.prices, tolerance=1e-9)
    assert all(pair in allowed for pair in differ)


def test_a_tolerance_holds_at_a_price_of_zero_too():
    problem = lpr.RoutingProblem([[0.1 + 0.2, -1.0]], tokens=at_most(2), total=at_most(1))
    assert tied(problem, lpr.Prices(total=0.3), tolerance=1e-12) == [[0, 0]]


def test_a_lone_pair_that_takes_what_is_left_is_not_tied():
    assert tied(lpr.RoutingProblem([[3, 2, 1]], tokens=exactly(1.5))) == []
    assert tied(lpr.RoutingProblem([[3, 2, 1]], tokens=exactly(6), multiplicity=[4])) == []
    assert tied(lpr.RoutingProblem([[3, 2, 2]], tokens=exactly(1.5))) == [[0, 1], [0, 2]]
