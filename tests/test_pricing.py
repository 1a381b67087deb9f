"""Pricing: every case worked by hand, agreement with HiGHS, options, and boxes that are wrong."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lp_routing as lpr
from lp_routing.pricing import narrowing
from lp_routing.pricing import solver as story
from lp_routing.pricing.box_lp import solve_in_box
from lp_routing.pricing.clearing import Lines, Markets
from lp_routing.pricing.priced import priced_constraints
from lp_routing.pricing.rows import everything, hashed, rows_of
from lp_routing.pricing.screen import screen
from tests import kkt
from tests.cases import CASES
from tests.strategies import problems

WHOLE = [case for case in CASES if case.problem.is_integral]
FRACTIONAL = [case for case in CASES if not case.problem.is_integral]


def skewed(seed, T=2048, E=32):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(T, 4, generator=generator) @ torch.randn(4, E, generator=generator)
    return torch.softmax(logits + torch.randn(E, generator=generator), 1)


@pytest.mark.parametrize("case", WHOLE, ids=lambda case: case.name)
def test_status_value_and_conditions_are_those_worked_by_hand(case):
    solution = lpr.solve(case.problem, lpr.Pricing())
    assert solution.status is case.status, solution.explanation
    assert float(solution.value) == pytest.approx(case.value, abs=1e-9)
    if case.status is not lpr.Status.OPTIMAL:
        assert solution.infeasibility is not None
        return
    x, prices = solution.assignment.x, solution.prices
    assert solution.assignment.is_whole
    assert kkt.primal_feasibility(case.problem, x) == 0
    assert kkt.dual_sign(case.problem, prices) == 0
    assert kkt.complementarity(case.problem, x, prices) <= 1e-9
    assert kkt.stationarity(case.problem, x, prices) <= 1e-9
    exact = lpr.certify(case.problem, x, prices, exact=True)
    assert (exact.gap, exact.violation) == (0, 0)


@pytest.mark.parametrize("case", FRACTIONAL, ids=lambda case: case.name)
def test_problems_without_whole_optima_are_refused_by_name(case):
    with pytest.raises(lpr.InputError, match=r"optima in whole numbers, but .*; use HiGHS\(\)"):
        lpr.solve(case.problem, "pricing")


@given(problems())
@settings(max_examples=200)
def test_highs_finds_the_same_value_and_the_same_impossibility(problem):
    ours, theirs = lpr.solve(problem, lpr.Pricing()), lpr.solve(problem)
    assert ours.status is theirs.status, ours.explanation
    assert float(ours.value) == pytest.approx(float(theirs.value), abs=1e-9)
    if ours.status is lpr.Status.OPTIMAL:
        assert kkt.primal_feasibility(problem, ours.assignment.x) == 0


@given(problems(), st.integers(-200, 200))
@settings(max_examples=40)
def test_scores_of_any_magnitude_are_solved_as_well(problem, power):
    other = problem.with_scores(torch.ldexp(problem.scores, torch.tensor(power)))
    first, second = (lpr.solve(each, lpr.Pricing()) for each in (problem, other))
    assert first.status is second.status
    assert float(second.value) == float(first.value) * 2.0**power


def test_order_seed_precision_and_start_do_not_change_the_value():
    scores = (skewed(0) * 2**20).round().double() / 2**20
    best = lpr.solve(lpr.problems.capacity(scores, 2, 160), lpr.Pricing())
    assert best.status is lpr.Status.OPTIMAL
    turned = lpr.solve(lpr.problems.capacity(scores.flip(0), 2, 160), lpr.Pricing())
    problem = lpr.problems.capacity(scores, 2, 160)
    wrong = lpr.Prices(experts=torch.linspace(-5, 50, 32).double())
    for solver in (
        lpr.Pricing(seed=7),
        lpr.Pricing(dtype=torch.float32),
        lpr.Pricing(start=best.prices),
        lpr.Pricing(start=wrong),
    ):
        solution = lpr.solve(problem, solver, integral=True)
        assert solution.status is lpr.Status.OPTIMAL
        assert solution.value == best.value == turned.value
        assert lpr.certify(problem, solution.assignment, solution.prices, exact=True).gap == 0


def test_a_box_is_drawn_around_the_prices_of_the_last_batch(monkeypatch):
    first, second = (lpr.problems.capacity(part, 2, 320) for part in skewed(5, 8192).split(4096))
    prices = lpr.solve(first, lpr.Pricing()).prices
    called = []
    for name in ("around", "sampled", "contested"):
        real = getattr(story, name)

        def recorded(*given, _name=name, _real=real, **options):
            called.append(_name)
            return _real(*given, **options)

        monkeypatch.setattr(story, name, recorded)
    assert lpr.solve(second, lpr.Pricing(start=prices)).status is lpr.Status.OPTIMAL
    assert called[:2] == ["around", "contested"]
    called.clear()
    nonsense = lpr.Prices(experts=torch.arange(32).double() * 1e9)
    assert lpr.solve(second, lpr.Pricing(start=nonsense)).status is lpr.Status.OPTIMAL
    assert called[:4] == ["around", "contested", "sampled", "contested"]


@pytest.mark.parametrize("name", ["STANDARD_ERRORS", "FEW"])
def test_boxes_that_are_too_narrow_are_widened(monkeypatch, name):
    passes = []
    real = story.contested
    monkeypatch.setattr(story, "contested", lambda *a, **k: passes.append(1) or real(*a, **k))
    monkeypatch.setattr(narrowing, name, 0.0)
    monkeypatch.setattr(narrowing, "DRIFT", 0.0)
    problem = lpr.problems.capacity(skewed(1), 2, 160)
    solution = lpr.solve(problem, lpr.Pricing())
    assert solution.status is lpr.Status.OPTIMAL
    assert float(solution.value) == pytest.approx(float(lpr.solve(problem).value), rel=1e-9)
    assert name == "FEW" or len(passes) > 1


def test_out_of_time_leaves_a_feasible_assignment_and_a_bound():
    problem = lpr.problems.balanced(skewed(2), 2)
    best = lpr.solve(problem, lpr.Pricing())
    solution = lpr.solve(problem, lpr.Pricing(time_limit_s=1e-6))
    assert solution.status in (lpr.Status.TIME_LIMIT, lpr.Status.OPTIMAL)  # it may be the best
    assert kkt.primal_feasibility(problem, solution.assignment.x) == 0
    assert float(solution.value) <= float(best.value) <= float(solution.bound)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"start": torch.zeros(3)}, r"start=.*expected Prices"),
        ({"dtype": torch.int64}, r"expected torch\.float64 or torch\.float32"),
        ({"relative_gap": -1}, r"relative_gap=-1: expected a number >= 0"),
        ({"relative_gap": float("nan")}, "relative_gap=nan"),
        ({"time_limit_s": 0}, r"time_limit_s=0\): expected a positive number"),
        ({"group": "world"}, "not initialised"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, words):
    with pytest.raises(lpr.InputError, match=words):
        lpr.Pricing(**options)


@given(problems(), st.integers(0, 2**32 - 1))
@settings(max_examples=100)
def test_closed_pairs_are_the_same_at_every_price_in_the_box(problem, seed):
    priced, place = priced_constraints(problem, 1.0, 10.0)
    random = np.random.default_rng(seed)
    low = random.uniform(-3, 3, len(priced))
    high = low + random.uniform(0, 2, len(priced))
    x = torch.zeros(problem.scores.shape, dtype=torch.int64)
    contest, _, _ = screen(rows_of(problem, place), priced, low, high, x)
    contested = torch.zeros(problem.scores.shape, dtype=torch.bool)
    row, rank = (contest.value > -np.inf).nonzero().T
    contested[contest.index[row], contest.expert[row, rank]] = True
    must, may = problem.token_bounds()
    for _ in range(5):
        prices = torch.as_tensor(random.uniform(low, high))
        on_experts, on_places = priced.pays(prices)
        paid = on_experts if place is None else on_experts + on_places[place][:, None]
        earned = problem.scores - paid
        for i in range(problem.T):
            order = torch.argsort(earned[i], descending=True, stable=True)
            left, units = float(may[i]), float(problem.copies()[i])
            owed = float(must[i])
            for j in order.tolist():
                wanted = min(units, left if earned[i, j] > 0 else min(left, owed))
                wanted = 0 if earned[i, j] == -np.inf else max(wanted, 0)
                left, owed = left - wanted, owed - wanted
                if not contested[i, j]:
                    assert wanted == float(x[i, j])


def test_an_lp_in_a_box_without_the_optimum_says_what_it_misses():
    # both tokens want expert 0, which has one slot: its price must be at least 1
    problem = lpr.RoutingProblem(
        [[3.0, 1.0], [2.0, 1.0]], experts=lpr.at_most(1), tokens=lpr.exactly(1)
    )
    priced, place = priced_constraints(problem, 1.0, 10.0)
    contest = everything(rows_of(problem, place))
    bounds = (np.zeros(2), np.ones(2))
    centre = np.zeros(2)
    found = solve_in_box(
        contest, priced, *bounds, (centre, np.array([0.5, 0.5])), centre, lpr.HiGHS()
    )
    assert found.missed.tolist() == [1, 0]
    found = solve_in_box(contest, priced, *bounds, (centre, np.full(2, 5.0)), centre, lpr.HiGHS())
    assert found.missed.tolist() == [0, 0]
    assert 1 <= found.prices[0] - found.prices[1] <= 2


def test_a_market_clears_between_the_last_that_fits_and_the_first_that_does_not():
    # offers 5, 3, 1 and 4: two units fit of the first list, none of the second
    lines = Lines(np.array([0, 0, 0, 1]), 2)
    offers = np.array([5.0, 1.0, 3.0, 4.0])
    assert lines.clear(offers, None, np.array([2.0, 0.0]), None).tolist() == [2.0, 4.0]
    # an upper bound that is not reached costs nothing; a lower bound beyond all offers takes them
    assert lines.clear(offers, np.zeros(2), np.array([9.0, 9.0]), None).tolist() == [0, 0]
    # nobody has to take what earns less than nothing
    assert Lines(np.array([0, 0]), 1).clear(-offers[:2], np.zeros(1), np.ones(1), None) == [0]
    weights = np.array([2.0, 1.0, 1.0, 1.0])
    assert lines.clear(offers, None, np.array([2.0, 0.0]), weights).tolist() == [4.0, 4.0]


def test_clearing_never_raises_the_dual():
    problem = lpr.problems.capacity(skewed(3, 256, 8), 2, 70)
    priced, place = priced_constraints(problem, 1.0, 10.0)
    markets = Markets(everything(rows_of(problem, place)), priced, np.zeros(8), np.full(8, 70.0))
    prices, bounds = np.zeros(8), []
    for _ in range(12):
        bounds.append(lpr.dual_bound(problem, lpr.Prices(experts=torch.as_tensor(prices))))
        prices = markets.sweep(prices, np.zeros(8), np.full(8, np.inf))
    assert all(later <= sooner + 1e-9 for sooner, later in pairwise(bounds))
    assert bounds[-1] < bounds[0]


def test_the_rule_for_ties_is_fixed_and_even():
    first = hashed(torch.arange(10_000))
    assert torch.equal(first, hashed(torch.arange(10_000)))
    assert float(first.min()) >= 0
    assert float(first.max()) < 1
    assert abs(float(first.mean()) - 0.5) < 0.02
    assert len(first.unique()) == len(first)
