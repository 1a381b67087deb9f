"""Whole amounts within all bounds, near given prices: `min_cost_flow.feasible_assignment`."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lp_routing as lpr
from lp_routing import at_least, at_most, between, exactly
from lp_routing.solvers.min_cost_flow import feasible_assignment
from tests import kkt
from tests.strategies import prices_for, problems

INF = float("inf")
NO_PRICES = lpr.Prices()


def random_scores(T, E, seed=0):
    """Softmax of low-rank logits: some experts are popular."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(T, 6, generator=generator) @ torch.randn(6, E, generator=generator)
    return torch.softmax(logits + torch.randn(E, generator=generator), 1)


def quantile_prices(scores, k, capacity, steps=40):
    """Alternate: each token's price makes k experts fit, each expert's price `capacity` tokens."""
    scores, prices = scores.double(), torch.zeros(scores.shape[1], dtype=torch.float64)
    for _ in range(steps):
        best = (scores - prices).topk(k + 1, 1).values
        slot = torch.where(scores - prices >= best[:, k - 1 : k], best[:, k:], best[:, k - 1 : k])
        asked = (scores - slot.clamp(min=0)).kthvalue(len(scores) - capacity, 0).values
        prices = (prices + asked.clamp(min=0)) / 2
    return lpr.Prices(experts=prices)


def worth(problem, x):
    return float((problem.scores.double().nan_to_num(neginf=0) * x).sum())


def test_a_slot_goes_to_who_would_miss_it_most():
    # both want expert 0, which has one slot; token 0 earns more there (10) but has 9 elsewhere
    problem = lpr.RoutingProblem([[10, 9], [8, 0]], tokens=exactly(1), experts=at_most(1))
    assert feasible_assignment(problem, NO_PRICES).tolist() == [[0, 1], [1, 0]]


def test_who_has_nowhere_else_to_go_comes_first():
    # token 1 may only go to expert 0, so token 0 leaves it although it would miss 100
    problem = lpr.RoutingProblem([[100, 0], [1, -INF]], tokens=exactly(1), experts=at_most(1))
    assert feasible_assignment(problem, NO_PRICES).tolist() == [[0, 1], [1, 0]]


def test_tokens_choose_at_the_prices():
    # expert 0 costs 4: token 0 keeps it (6 > 5), token 1 goes to expert 1 (1 < 2)
    problem = lpr.RoutingProblem([[10, 5], [5, 2]], tokens=at_most(1))
    dear = lpr.Prices(experts=torch.tensor([4.0, 0.0]))
    problem = lpr.problems.capacity(problem.scores, 1, 1)
    assert feasible_assignment(problem, dear).tolist() == [[1, 0], [0, 1]]


def test_room_that_prices_leave_empty_is_filled_by_score():
    # at a price of 9 nobody wants expert 0, yet its slot is worth 5
    problem = lpr.problems.capacity([[5.0], [4.0]], 1, 1)
    dear = lpr.Prices(experts=torch.tensor([9.0]))
    assert feasible_assignment(problem, dear).tolist() == [[1], [0]]


def test_where_all_is_tied_all_room_is_filled():
    x = feasible_assignment(lpr.RoutingProblem(torch.ones(3, 3), total=at_most(4)), NO_PRICES)
    assert x.sum() == 4
    x = feasible_assignment(lpr.problems.capacity(torch.ones(3, 3), 1, 2), NO_PRICES)
    assert x.sum(1).tolist() == [1, 1, 1]
    assert x.sum(0).max() <= 2


def test_negative_scores_are_taken_only_where_they_must_be():
    assert feasible_assignment(lpr.problems.token_choice([[-1, -2]], 1), NO_PRICES).tolist() == [
        [1, 0]
    ]
    assert not feasible_assignment(lpr.problems.capacity([[-1, -2]], 1, 1), NO_PRICES).any()
    needed = lpr.RoutingProblem([[-1, -3], [-2, -1]], experts=at_least(1))
    assert feasible_assignment(needed, NO_PRICES).tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_scores_of_any_width_give_the_same_assignment(dtype):
    scores = (torch.rand(60, 8, generator=torch.Generator().manual_seed(3)) * 64).round() / 64
    expected = feasible_assignment(lpr.problems.balanced(scores.double(), 2), NO_PRICES)
    found = feasible_assignment(lpr.problems.balanced(scores.to(dtype), 2), NO_PRICES)
    assert found.dtype == torch.bool
    assert found.equal(expected)


def test_rows_that_stand_for_several_tokens_share_experts():
    # three tokens in one row, exactly one expert each: two find room at expert 0, one at expert 1
    problem = lpr.RoutingProblem([[5, 1]], tokens=exactly(3), experts=at_most(2), multiplicity=[3])
    found = feasible_assignment(problem, NO_PRICES)
    assert found.dtype == torch.int64
    assert found.tolist() == [[2, 1]]


def test_prices_of_another_problem_are_refused():
    with pytest.raises(lpr.InputError, match="expected 2, got 3"):
        feasible_assignment(
            lpr.problems.capacity([[1, 2]], 1, 1), lpr.Prices(experts=torch.ones(3))
        )


# --- exchanges


def test_a_token_without_room_is_let_in_by_a_chain_of_moves():
    # token 2 may only go to expert 0: token 0 moves on to expert 1, token 1 to expert 2
    scores = [[5, 5, -INF], [-INF, 5, 5], [5, -INF, -INF]]
    problem = lpr.RoutingProblem(scores, tokens=exactly(1), experts=at_most(1))
    assert feasible_assignment(problem, NO_PRICES).tolist() == [[0, 1, 0], [0, 0, 1], [1, 0, 0]]


def test_a_token_that_has_more_than_it_must_gives_a_pair_up():
    # both experts are full; token 0 must keep one of its two and loses less without expert 1
    problem = lpr.RoutingProblem([[5, 3], [4, 4]], tokens=between(1, 2), experts=at_most(1))
    assert feasible_assignment(problem, NO_PRICES).tolist() == [[1, 0], [0, 1]]


def test_an_expert_below_its_least_load_takes_who_loses_least_by_moving():
    # expert 1 needs a token: token 0 would lose 4, token 1 only 1
    problem = lpr.RoutingProblem([[5, 1], [3, 2]], tokens=exactly(1), experts=at_least(1))
    assert feasible_assignment(problem, NO_PRICES).tolist() == [[1, 0], [0, 1]]


def test_a_total_is_reached_by_who_gains_most():
    problem = lpr.RoutingProblem([[-1, -2], [-3, -4]], tokens=at_most(1), total=at_least(1))
    assert feasible_assignment(problem, NO_PRICES).tolist() == [[1, 0], [0, 0]]


def test_two_tokens_for_one_slot_are_too_many():
    problem = lpr.RoutingProblem([[1.0], [1.0]], tokens=exactly(1), experts=at_most(1))
    assert feasible_assignment(problem, NO_PRICES) is None


def test_places_in_a_full_group_change_hands():
    # both tokens prefer expert 0, expert 1 needs one, and their device is full with two
    problem = lpr.RoutingProblem(
        [[5, 1, -INF], [3, 2, -INF]],
        tokens=exactly(1),
        experts=between([1, 1, 0], 2),
        expert_groups=[([0, 1], exactly(2))],
    )
    assert feasible_assignment(problem, NO_PRICES).tolist() == [[1, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize("k", [1, 2, 5])
def test_the_common_problems_are_placed(k):
    scores = random_scores(1024, 16)
    tight = -(-1024 * k // 16)
    devices = lpr.groups_by([j // 4 for j in range(16)], at_most(5 * tight))
    for problem in (
        lpr.problems.balanced(scores, k),
        lpr.problems.capacity(scores, k, tight),
        lpr.problems.capped_expert_choice(scores, tight, k),
        lpr.problems.served_unified(scores, 1024 * k),
        lpr.RoutingProblem(-scores, tokens=exactly(k), experts=at_most(tight)),
        lpr.RoutingProblem(scores, tokens=exactly(k), expert_groups=devices),
        lpr.problems.balanced(scores.masked_fill(scores < scores.median(1, True).values, -INF), 1),
    ):
        found = feasible_assignment(problem, NO_PRICES)
        assert kkt.primal_feasibility(problem, found) == 0


# --- laws


@given(st.data())
@settings(max_examples=150)
def test_what_exists_is_found_at_any_prices(data):
    problem = data.draw(problems())
    found = feasible_assignment(problem, data.draw(prices_for(problem)))
    possible = lpr.solve(problem, "highs").status is lpr.Status.OPTIMAL
    assert (found is not None) == possible
    if found is not None:
        assert kkt.primal_feasibility(problem, found) == 0


@given(st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_tight_problems_of_medium_size_are_placed_exactly_where_they_can_be(data):
    T, E, k = data.draw(st.integers(8, 80)), data.draw(st.integers(3, 9)), 2
    scores = random_scores(T, E, seed=data.draw(st.integers(0, 99)))
    forbidden = torch.rand(T, E, generator=torch.Generator().manual_seed(T)) < data.draw(
        st.sampled_from([0.0, 0.3, 0.55])
    )
    forbidden &= torch.arange(E) != torch.arange(T)[:, None] % E  # everyone may go somewhere
    stated = {"tokens": data.draw(st.sampled_from([exactly(1), exactly(k), between(1, 3)]))}
    stated["experts"] = between(T // E, -(-T * k // E) + data.draw(st.integers(0, 1)))
    if data.draw(st.booleans()):
        stated["total"] = exactly(data.draw(st.integers(T, 2 * T)))
    problem = lpr.RoutingProblem(scores.masked_fill(forbidden, -INF), **stated)
    best = lpr.solve(problem, "highs")
    found = feasible_assignment(problem, best.prices)
    assert (found is not None) == (best.status is lpr.Status.OPTIMAL)
    if found is not None:
        assert kkt.primal_feasibility(problem, found) == 0
        assert worth(problem, found) > 0.95 * best.value


@pytest.mark.parametrize("factor", [1.0, 1.25])
def test_near_the_best_prices_little_is_lost(factor):
    scores = random_scores(8192, 32)
    capacity = int(factor * 2 * 8192 / 32)
    prices = quantile_prices(scores, 2, capacity)
    problems = [lpr.problems.capacity(scores, 2, capacity)]
    if factor == 1:
        problems.append(lpr.problems.balanced(scores, 2))
    for problem in problems:
        bound = lpr.dual_bound(problem, prices)
        assert worth(problem, feasible_assignment(problem, prices)) > 0.999 * bound
        assert worth(problem, feasible_assignment(problem, NO_PRICES)) > 0.8 * bound
