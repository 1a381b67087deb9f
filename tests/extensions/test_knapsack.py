"""Experts of unequal cost: one price against HiGHS, exact arithmetic and brute force."""

from itertools import combinations, pairwise, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lp_routing as lpr
from lp_routing.extensions import knapsack
from lp_routing.extensions.knapsack import searched_within_budget, within_budget

NEVER = float("-inf")


def by_brute_force(scores, k, costs, budget) -> float:
    """The most that any choices of k experts a token are worth within the budget."""
    rows = [
        [(sum(row[j] for j in some), sum(costs[j] for j in some)) for some in picks(row, k)]
        for row in scores.tolist()
    ]
    fitting = (
        sum(worth for worth, _ in choice)
        for choice in product(*rows)
        if sum(cost for _, cost in choice) <= budget
    )
    return max(fitting, default=NEVER)


def picks(row, k):
    return combinations([j for j, s in enumerate(row) if s > NEVER], k)


def test_half_of_an_expert_that_is_too_dear_is_worth_more_than_none():
    # costs (0, 1, 2), scores (0, 0, 1), budget 1: at price 1/2 all of s - p c are <= 0 and the
    # bound is 1/2 * 1; whole choices cannot pay for the only expert that is worth something
    scores, costs = torch.tensor([[0.0, 0.0, 1.0]]), [0.0, 1.0, 2.0]
    found = within_budget(scores, 1, costs, 1)
    assert (found.value, found.bound) == (0, pytest.approx(0.5, abs=1e-12))
    assert (found.price, found.cost) == (pytest.approx(0.5, abs=1e-12), 0)
    assert searched_within_budget(scores, 1, costs, 1).value == 0
    lp = searched_within_budget(scores, 1, costs, 1, integral=False)
    assert lp.value == pytest.approx(0.5)
    assert lp.x.tolist() == [pytest.approx([0.5, 0, 0.5])]


def test_money_goes_where_it_gains_most():
    # free expert 0, paid expert 1; gains 5, 3, 1 and two can be paid: 5 + 3 = 8, at a price
    # between 1 and 3
    scores = torch.tensor([[0.0, 5.0], [0.0, 1.0], [0.0, 3.0]])
    found = within_budget(scores, 1, [0.0, 1.0], 2)
    assert found.x.tolist() == [[False, True], [True, False], [False, True]]
    assert (found.value, found.bound, found.cost, found.budget) == (8, pytest.approx(8), 2, 2)
    assert 1 <= found.price <= 3


def test_without_need_for_a_price_it_is_row_top_k_and_proved_by_zero():
    scores = torch.tensor([[3.0, 1.0, 2.0]])
    found = within_budget(scores, 2, [1.0, 1.0, 1.0], 2)
    assert (found.x.tolist(), found.price, found.gap) == ([[True, False, True]], 0, 0)


def test_one_token_takes_two_dear_experts_where_one_is_affordable():
    # both exchanges are level at price 1, and the budget pays for one of them
    scores = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    found = within_budget(scores, 2, [0.0, 0.0, 1.0, 1.0], 1)
    assert (found.value, found.cost) == (1, 1)
    assert found.gap == pytest.approx(0, abs=1e-12)


@st.composite
def purses(draw):
    T, E = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    entry = st.one_of(st.integers(-3, 4), st.integers(-3, 4), st.just(NEVER))
    rows = draw(st.lists(st.lists(entry, min_size=E, max_size=E), min_size=T, max_size=T))
    costs = draw(st.lists(st.integers(0, 3), min_size=E, max_size=E))
    k, budget = draw(st.integers(1, E)), draw(st.integers(0, 8))
    return torch.tensor(rows, dtype=torch.float64), k, [float(c) for c in costs], budget


@settings(deadline=None, max_examples=150)
@given(purses())
def test_value_best_and_bound_stand_in_order_and_one_exchange_apart(case):
    scores, k, costs, budget = case
    best = by_brute_force(*case)
    if best == NEVER:
        with pytest.raises(lpr.InputError):
            within_budget(*case)
        return
    found = within_budget(*case)
    assert found.value <= best <= found.bound + 1e-9
    assert found.cost <= budget
    assert (found.x.sum(-1) == k).all()
    allowed = scores.where(scores > NEVER, torch.nan)
    span = max(float(r[~r.isnan()].max() - r[~r.isnan()].min()) for r in allowed)
    assert found.gap <= span + 1e-9
    if len(set(costs)) <= 2 and min(costs) == 0 and budget % (max(costs) or 1) == 0:
        assert found.value == best
        assert found.bound == pytest.approx(best, abs=1e-9)


@settings(deadline=None, max_examples=25)
@given(purses())
def test_highs_finds_the_bound_as_the_lps_value_and_the_best_whole_choice(case):
    best = by_brute_force(*case)
    if best == NEVER:
        return
    lp = searched_within_budget(*case, integral=False)
    assert within_budget(*case).bound == pytest.approx(lp.value, abs=1e-6)
    assert searched_within_budget(*case).value == pytest.approx(best, abs=1e-9)


def test_at_real_size_the_gap_is_below_one_exchange_and_more_money_is_worth_less_and_less():
    scores = torch.randn(2000, 16, generator=torch.Generator().manual_seed(0)).softmax(-1)
    costs = torch.tensor([0.0, 0.1, 1.0, 2.5]).repeat(4)
    prices, bounds = [], []
    for budget in (500, 1000, 1500, 2000):
        found = within_budget(scores, 2, costs, budget)
        assert -1e-9 <= found.gap <= 1
        assert found.cost <= budget
        prices.append(found.price)
        bounds.append(found.bound)
    assert prices == sorted(prices, reverse=True)
    gained = [b - a for a, b in pairwise(bounds)]
    assert gained == sorted(gained, reverse=True)
    # a price is a derivative of the LP's value
    more = within_budget(scores, 2, costs, 1001).bound - bounds[1]
    assert more == pytest.approx(prices[1], rel=1e-2)


def test_a_price_that_is_not_the_best_only_weakens_the_bound(monkeypatch):
    scores = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)).double()
    costs = torch.arange(8)
    best = within_budget(scores, 2, costs, 90)
    monkeypatch.setattr(knapsack, "STEPS", 1)
    found = within_budget(scores, 2, costs, 90)
    assert found.value <= best.value <= best.bound < found.bound


@pytest.mark.parametrize(
    ("k", "costs", "budget", "says"),
    [
        (3, [1.0, 1.0], 9, "k=3 is more than E"),
        (1, [1.0], 9, "expected 2 finite numbers >= 0"),
        (1, [1.0, -1.0], 9, "expected 2 finite numbers >= 0"),
        (1, [1.0, float("inf")], 9, "expected 2 finite numbers >= 0"),
        (1, [1.0, 1.0], -1, "budget=-1"),
        (1, [1.0, 1.0], float("nan"), "budget=nan"),
        (1, [1.0, 1.0], True, "budget=True"),
        (1, [1.0, 2.0], 2, "cost 3 already"),
    ],
)
def test_bad_input_is_refused_in_words(k, costs, budget, says):
    # the first token may not go to the cheap expert
    scores = torch.tensor([[NEVER, 1.0], [1.0, 2.0]])
    for function in (within_budget, searched_within_budget):
        with pytest.raises(lpr.InputError, match=says):
            function(scores.nan_to_num(neginf=0.0) if k > 2 else scores, k, costs, budget)


def test_a_token_with_too_few_allowed_experts_and_bad_scores_are_refused():
    with pytest.raises(lpr.InputError, match="token 1 has 1 allowed experts, fewer than k=2"):
        within_budget(torch.tensor([[1.0, 1.0], [1.0, NEVER]]), 2, [1.0, 1.0], 9)
    with pytest.raises(lpr.InputError, match="is nan"):
        within_budget(torch.tensor([[1.0, float("nan")]]), 1, [1.0, 1.0], 9)
