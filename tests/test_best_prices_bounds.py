"""`best_prices` under bounds of every kind: valid always, close to what HiGHS proves."""

import pytest
import torch
from hypothesis import given

import lp_routing as lpr
from lp_routing import at_least, at_most, between, exactly, groups_by
from tests.strategies import problems
from tests.test_hard_cases import skewed

SCORES = skewed(600, 6)
FAMILIES = {
    "fractions of slots": {"tokens": exactly(2), "experts": at_most(210.5)},
    "half a budget": {"tokens": at_most(2), "total": at_most(700.5)},
    "a budget": {"tokens": at_most(2), "total": at_most(700)},
    "a demand": {"tokens": at_most(2), "experts": at_least(150)},
    "nested devices": {
        "tokens": exactly(2),
        "expert_groups": [([0, 1], at_most(300)), ([0, 1, 2], at_most(350))],
    },
    "crossing devices": {
        "tokens": exactly(2),
        "expert_groups": [([0, 1, 2], at_most(350)), ([2, 3, 4], at_most(350))],
    },
    "sequences": {"token_groups": groups_by([i % 7 for i in range(600)], between(90, 110))},
    "crossing sequences": {
        "tokens": at_most(2),
        "token_groups": [(range(400), at_most(300)), (range(200, 600), at_most(300))],
    },
}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_bound_is_valid_and_close_under_bounds_of_every_kind(name):
    problem = lpr.RoutingProblem(SCORES, **FAMILIES[name])
    best = float(lpr.solve(problem).value)
    bound = lpr.dual_bound(problem, lpr.best_prices(problem))
    assert best - 1e-9 * abs(best) <= bound <= best + 1e-4 * abs(best)


def test_fractions_of_experts_per_token_leave_the_bound_some_per_cent_off():
    problem = lpr.RoutingProblem(SCORES, tokens=exactly(1.5), experts=at_most(200))
    best = float(lpr.solve(problem).value)
    assert best < lpr.dual_bound(problem, lpr.best_prices(problem)) < 1.05 * best


@given(problems())
def test_the_bound_is_valid_whatever_the_problem(problem):
    best = float(lpr.solve(problem).value)
    assert lpr.dual_bound(problem, lpr.best_prices(problem)) >= best - 1e-9


def test_any_sample_leads_to_prices_that_are_as_close():
    problem = lpr.problems.balanced(skewed(4096, 64), 2)
    best = float(lpr.solve(problem, lpr.Pricing()).value)
    for seed in range(3):
        found = lpr.best_prices(problem, relative_gap=0, max_passes=8, seed=seed)
        assert best <= lpr.dual_bound(problem, found) <= best + 1e-4 * abs(best)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"relative_gap": "small"}, "relative_gap='small'"),
        ({"relative_gap": None}, "relative_gap=None"),
        ({"relative_gap": True}, "relative_gap=True"),
        ({"max_passes": 1.5}, "max_passes=1.5: expected a whole number"),
        ({"seed": "x"}, "seed='x'"),
        ({"group": "world"}, "not initialised"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused_by_name(options, words):
    with pytest.raises(lpr.InputError, match=words):
        lpr.best_prices(lpr.problems.token_choice(torch.ones(3, 2), 1), **options)


@given(problems())
def test_prices_are_no_worse_than_none(problem):
    bound = lpr.dual_bound(problem, lpr.best_prices(problem))
    assert bound <= lpr.dual_bound(problem, lpr.Prices()) + 1e-9 * problem.score_scale


def test_more_passes_never_give_a_worse_bound():
    # 150 tokens of five experts with bounds on both sides, where later passes lost ground
    scores = torch.rand(150, 5, generator=torch.Generator().manual_seed(4)) * 10
    problem = lpr.RoutingProblem(
        scores, tokens=at_most(1), experts=between([5, 20, 0, 30, 10], [20, 25, 9, 40, 30])
    )
    bounds = [
        lpr.dual_bound(problem, lpr.best_prices(problem, 0.0, passes)) for passes in (1, 2, 4, 8)
    ]
    assert bounds == sorted(bounds, reverse=True)


def test_ties_under_demands_do_not_make_prices_worse_than_none():
    # all scores are 0, so no assignment is worth anything: no price is needed to prove that
    problem = lpr.RoutingProblem(torch.zeros(20, 8), tokens=at_least(1), experts=exactly(3))
    assert lpr.dual_bound(problem, lpr.best_prices(problem)) == 0
