"""Laws that every optimum obeys, whatever the numbers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lp_routing as lpr
from lp_routing import at_most, exactly
from tests.strategies import problems, score_matrices


def value(problem):
    return float(lpr.solve(problem).value)


@given(st.data())
def test_renaming_tokens_and_experts_changes_nothing(data):
    scores = data.draw(score_matrices())
    T, E = scores.shape
    capacities = torch.tensor(data.draw(st.lists(st.integers(0, T), min_size=E, max_size=E)))
    tokens = torch.tensor(data.draw(st.permutations(range(T))))
    experts = torch.tensor(data.draw(st.permutations(range(E))))
    one = lpr.RoutingProblem(scores, tokens=at_most(2), experts=at_most(capacities))
    other = lpr.RoutingProblem(
        scores[tokens][:, experts], tokens=at_most(2), experts=at_most(capacities[experts])
    )
    assert value(one) == pytest.approx(value(other), abs=1e-9)


@given(score_matrices(forbid=False), st.integers(-8, 8))
def test_a_constant_added_to_a_token_adds_k_times_it_under_equations(scores, constant):
    moved = scores.clone()
    moved[0] += constant
    assert value(lpr.problems.balanced(moved, 1)) == pytest.approx(
        value(lpr.problems.balanced(scores, 1)) + constant, abs=1e-9
    )


@given(score_matrices(), st.integers(0, 5))
def test_more_capacity_never_lowers_the_optimum_and_pays_less_each_time(scores, capacity):
    k = min(2, scores.shape[1])
    values = [value(lpr.problems.capacity(scores, k, capacity + more)) for more in range(3)]
    assert values[0] <= values[1] + 1e-9
    assert values[1] <= values[2] + 1e-9
    assert values[2] - values[1] <= values[1] - values[0] + 1e-9


@given(score_matrices(forbid=False), st.integers(1, 2))
def test_unified_is_worth_at_least_token_choice_expert_choice_and_balance(scores, k):
    T, E = scores.shape
    k = min(k, E)
    ceiling = value(lpr.problems.unified(scores, T * k))
    assert value(lpr.problems.token_choice(scores, k)) <= ceiling + 1e-9
    assert value(lpr.problems.balanced(scores, k)) <= ceiling + 1e-9
    if T * k % E == 0:
        assert value(lpr.problems.expert_choice(scores, T * k // E)) <= ceiling + 1e-9


@given(problems())
def test_doubling_the_scores_doubles_the_optimum(problem):
    assert value(problem.with_scores(problem.scores * 2)) == pytest.approx(2 * value(problem))


@given(score_matrices(max_tokens=4), st.integers(1, 3))
def test_a_row_of_several_tokens_is_worth_as_much_as_the_tokens(scores, copies):
    T = scores.shape[0]
    merged = lpr.RoutingProblem(
        scores, tokens=at_most(copies), experts=at_most(2), multiplicity=[copies] * T
    )
    apart = lpr.RoutingProblem(
        scores.repeat_interleave(copies, 0), tokens=at_most(1), experts=at_most(2)
    )
    assert value(merged) == pytest.approx(value(apart), abs=1e-9)


def test_a_bound_that_is_no_bound_changes_nothing():
    scores = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    free = lpr.RoutingProblem(scores, tokens=exactly(2))
    idle = lpr.RoutingProblem(
        scores, tokens=exactly(2), experts=at_most(float("inf")), total=lpr.at_least(0)
    )
    assert value(free) == value(idle)
