"""Why there is no assignment: a clash in routing words, proved by prices."""

import pytest
import torch
from hypothesis import given, settings

import lp_routing as lpr
from lp_routing import at_least, at_most, between, exactly
from lp_routing.infeasibility import explain
from tests.cases import FEASIBLE, INFEASIBLE
from tests.strategies import problems

INF = float("inf")


def says(problem):
    return lpr.solve(problem).explanation


def test_too_few_slots():
    problem = lpr.RoutingProblem(torch.rand(8, 4), tokens=exactly(2), experts=at_most(3))
    assert says(problem) == (
        "No assignment exists: tokens 0-7 need 16 (2 each), but experts 0-3 can give only 12 "
        "(3 each): 4 short. Raise a capacity or lower a demand."
    )


def test_only_the_tokens_and_experts_that_clash_are_named():
    # tokens 0, 1 and 2 may go to expert 0 alone, which takes two; everybody else is at ease
    scores = torch.ones(6, 3)
    scores[:3, 1:] = -INF
    problem = lpr.RoutingProblem(scores, tokens=exactly(1), experts=at_most(2))
    found = lpr.solve(problem).infeasibility
    assert found.needs == {"token_0": 1, "token_1": 1, "token_2": 1}
    assert found.gives == {"expert_0": 2}
    assert found.shortfall == 1
    assert "tokens 0-2 need 3 (1 each), but expert 0 can give only 2: 1 short" in found.says


def test_experts_that_ask_for_more_tokens_than_may_come():
    problem = lpr.RoutingProblem(torch.ones(2, 2), experts=exactly(3))
    assert "experts 0-1 need 6 (3 each), but the allowed pairs can give only 4" in says(problem)


def test_a_row_with_too_few_allowed_pairs():
    problem = lpr.RoutingProblem([[1, -INF, -INF], [1, 1, 1]], tokens=exactly(2))
    assert "token 0 needs 2, but the allowed pairs can give only 1" in says(problem)


def test_a_budget_below_the_demand():
    problem = lpr.RoutingProblem(torch.ones(5, 3), tokens=at_least(1), total=at_most(4))
    assert "tokens 0-4 need 5 (1 each), but the total budget can give only 4" in says(problem)


def test_groups_go_by_their_names():
    groups = [lpr.Group([0, 1], at_least(3), "prompt")]
    problem = lpr.RoutingProblem(torch.ones(4, 3), tokens=at_most(1), token_groups=groups)
    assert "token group prompt needs 3, but tokens 0-1 can give only 2 (1 each)" in says(problem)


def test_copies_of_a_token_are_spoken_of():
    problem = lpr.RoutingProblem([[1.0]], experts=exactly(4), multiplicity=[3])
    assert "3 (each at most as often as its row has copies)" in says(problem)


def test_scattered_tokens_are_counted_not_listed():
    scores = torch.ones(40, 2)
    scores[::2, 1] = -INF
    problem = lpr.RoutingProblem(scores, tokens=exactly(1), experts=between(0, [5, 40]))
    assert "tokens 0, 2, 4, 6, 8, 10, ... (20 in all) need 20" in says(problem)


@pytest.mark.parametrize("case", INFEASIBLE, ids=lambda case: case.name)
def test_the_proof_is_a_negative_bound_on_scores_of_zero(case):
    found = explain(case.problem)
    nothing = case.problem.with_scores(torch.where(case.problem.allowed, 0.0, -INF))
    assert lpr.dual_bound(nothing, found.prices) < 0
    assert found.shortfall > 0
    assert found.shortfall == pytest.approx(-lpr.dual_bound(nothing, found.prices))


@pytest.mark.parametrize("case", FEASIBLE, ids=lambda case: case.name)
def test_nothing_is_explained_where_an_assignment_exists(case):
    assert explain(case.problem) is None


@given(problems())
@settings(max_examples=100)
def test_a_clash_is_explained_exactly_where_there_is_no_assignment(problem):
    solution = lpr.solve(problem)
    found = explain(problem)
    assert (found is not None) == (solution.status is lpr.Status.INFEASIBLE)
    if found is not None:
        assert sum(found.needs.values()) > sum(found.gives.values())
