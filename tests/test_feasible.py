"""Whole amounts within all bounds, near given prices: rounds, exchanges, and the flow."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lp_routing as lpr
from lp_routing import at_least, at_most, between, exactly, feasible
from lp_routing.feasible import feasible_assignment
from lp_routing.placing import Placement, exchange, rounds
from lp_routing.placing.rounds import keep_best
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


def refuse(*args):
    raise AssertionError("the flow was asked")


# --- rounds


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


def test_ties_go_to_the_lower_token_then_the_lower_expert():
    x = feasible_assignment(lpr.RoutingProblem(torch.ones(3, 3), total=at_most(4)), NO_PRICES)
    assert x.tolist() == [[1, 1, 1], [1, 0, 0], [0, 0, 0]]
    x = feasible_assignment(lpr.problems.capacity(torch.ones(3, 3), 1, 2), NO_PRICES)
    assert x.tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 0]]


def test_negative_scores_are_taken_only_where_they_must_be():
    assert feasible_assignment(lpr.problems.token_choice([[-1, -2]], 1), NO_PRICES).tolist() == [
        [1, 0]
    ]
    assert not feasible_assignment(lpr.problems.capacity([[-1, -2]], 1, 1), NO_PRICES).any()
    needed = lpr.RoutingProblem([[-1, -3], [-2, -1]], experts=at_least(1))
    assert feasible_assignment(needed, NO_PRICES).tolist() == [[1, 0], [0, 1]]


def test_the_worthiest_are_kept_within_each_room():
    worth_of, amount = torch.tensor([1.0, 3, 2, 9, 9]), torch.tensor([1.0, 2, 2, 5, 5]).double()
    labels = torch.tensor([0, 0, 0, 1, 2])  # set 0 has room for 3, set 1 for 6; 2 is no set
    kept = keep_best(worth_of, amount, labels, torch.tensor([3.0, 6]).double())
    assert kept.tolist() == [0, 2, 1, 5, 5]


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


def test_bounds_that_are_fractions_are_rounded_inwards():
    half = lpr.RoutingProblem([[3, 2], [2, 1]], tokens=at_most(1.5), experts=between(0.5, 1.5))
    assert kkt.primal_feasibility(half, feasible_assignment(half, NO_PRICES)) == 0
    nothing = lpr.RoutingProblem([[3, 2]], tokens=between(0.2, 0.8))
    assert feasible_assignment(nothing, NO_PRICES) is None


def test_prices_of_another_problem_are_refused():
    with pytest.raises(lpr.InputError, match="expected 2, got 3"):
        feasible_assignment(
            lpr.problems.capacity([[1, 2]], 1, 1), lpr.Prices(experts=torch.ones(3))
        )


def test_sorting_in_blocks_and_asking_for_fewer_at_a_time_keep_all_bounds(monkeypatch):
    problem = lpr.problems.balanced(random_scores(300, 12), 5)
    at_once = feasible_assignment(problem, NO_PRICES)
    monkeypatch.setattr(rounds, "BLOCK", 7)
    assert feasible_assignment(problem, NO_PRICES).equal(at_once)
    monkeypatch.setattr(rounds, "SMALL", 0)  # now E * 4 / 64 = 0 pairs: one at a time
    little_by_little = feasible_assignment(problem, NO_PRICES)
    assert kkt.primal_feasibility(problem, little_by_little) == 0
    assert worth(problem, little_by_little) > 0.9 * worth(problem, at_once)


# --- exchanges


def started(problem, x):
    placement = Placement(problem, NO_PRICES)
    placement.set(torch.tensor(x, dtype=torch.bool))
    return placement


def test_a_token_without_room_is_let_in_by_a_chain_of_moves():
    # token 2 may only go to expert 0: token 0 moves on to expert 1, token 1 to expert 2
    scores = [[5, 5, -INF], [-INF, 5, 5], [5, -INF, -INF]]
    problem = lpr.RoutingProblem(scores, tokens=exactly(1), experts=at_most(1))
    placement = started(problem, [[1, 0, 0], [0, 1, 0], [0, 0, 0]])
    assert exchange(placement)
    assert placement.x.tolist() == [[0, 1, 0], [0, 0, 1], [1, 0, 0]]


def test_a_token_that_has_more_than_it_must_gives_a_pair_up():
    # both experts are full; token 0 must keep one of its two and loses less without expert 1
    problem = lpr.RoutingProblem([[5, 3], [4, 4]], tokens=between(1, 2), experts=at_most(1))
    placement = started(problem, [[1, 1], [0, 0]])
    assert exchange(placement)
    assert placement.x.tolist() == [[1, 0], [0, 1]]


def test_an_expert_below_its_least_load_takes_who_loses_least_by_moving():
    # expert 1 needs a token: token 0 would lose 4, token 1 only 1
    problem = lpr.RoutingProblem([[5, 1], [3, 2]], tokens=exactly(1), experts=at_least(1))
    placement = started(problem, [[1, 0], [1, 0]])
    assert exchange(placement)
    assert placement.x.tolist() == [[1, 0], [0, 1]]


def test_a_total_is_reached_by_who_gains_most():
    problem = lpr.RoutingProblem([[-1, -2], [-3, -4]], tokens=at_most(1), total=at_least(1))
    placement = started(problem, [[0, 0], [0, 0]])
    assert exchange(placement)
    assert placement.x.tolist() == [[1, 0], [0, 0]]


def test_two_tokens_for_one_slot_are_too_many():
    problem = lpr.RoutingProblem([[1.0], [1.0]], tokens=exactly(1), experts=at_most(1))
    assert not exchange(Placement(problem, NO_PRICES))
    assert feasible_assignment(problem, NO_PRICES) is None


# --- the flow


def in_one_group():
    """Both tokens prefer expert 0, expert 1 needs one, and their device is full with two."""
    return lpr.RoutingProblem(
        [[5, 1, -INF], [3, 2, -INF]],
        tokens=exactly(1),
        experts=between([1, 1, 0], 2),
        expert_groups=[([0, 1], exactly(2))],
    )


def test_the_flow_moves_within_a_full_group_where_exchanges_do_not(monkeypatch):
    problem, reached = in_one_group(), []
    flow = feasible.meet_demands
    monkeypatch.setattr(feasible, "meet_demands", lambda *a: reached.append(a) or flow(*a))
    found = feasible_assignment(problem, NO_PRICES)
    assert reached
    assert kkt.primal_feasibility(problem, found) == 0


def test_beyond_the_size_of_the_flow_nothing_is_found_there(monkeypatch):
    monkeypatch.setattr(feasible, "LARGEST_FLOW", 3)
    assert feasible_assignment(in_one_group(), NO_PRICES) is None


@pytest.mark.parametrize("k", [1, 2, 5])
def test_the_common_problems_need_no_flow(k, monkeypatch):
    monkeypatch.setattr(feasible, "meet_demands", refuse)
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
def test_without_groups_rounds_and_exchanges_find_what_exists_at_any_prices(data):
    problem = data.draw(problems(groups=False))
    found = feasible_assignment(problem, data.draw(prices_for(problem)))
    possible = lpr.solve(problem).status is lpr.Status.OPTIMAL
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
    best = lpr.solve(problem)
    found = feasible_assignment(problem, best.prices or NO_PRICES)
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
