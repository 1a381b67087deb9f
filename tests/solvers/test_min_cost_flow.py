"""MinCostFlow: every case worked by hand, agreement with HiGHS, options, refusals."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lp_routing as lpr
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
    solution = lpr.solve(case.problem, lpr.MinCostFlow())
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
        lpr.solve(case.problem, "mincostflow")


@given(problems())
@settings(max_examples=200)
def test_highs_finds_the_same_value_and_the_same_impossibility(problem):
    ours, theirs = lpr.solve(problem, lpr.MinCostFlow()), lpr.solve(problem, "highs")
    assert ours.status is theirs.status, ours.explanation
    assert float(ours.value) == pytest.approx(float(theirs.value), abs=1e-9)
    if ours.status is lpr.Status.OPTIMAL:
        assert kkt.primal_feasibility(problem, ours.assignment.x) == 0


@given(problems(), st.integers(-200, 200))
@settings(max_examples=40)
def test_scores_of_any_magnitude_are_solved_as_well(problem, power):
    other = problem.with_scores(torch.ldexp(problem.scores, torch.tensor(power)))
    first, second = (lpr.solve(each, lpr.MinCostFlow()) for each in (problem, other))
    assert first.status is second.status
    assert float(second.value) == float(first.value) * 2.0**power


def test_order_seed_and_start_do_not_change_the_value():
    scores = (skewed(0) * 2**20).round().double() / 2**20
    best = lpr.solve(lpr.problems.capacity(scores, 2, 160), lpr.MinCostFlow())
    assert best.status is lpr.Status.OPTIMAL
    turned = lpr.solve(lpr.problems.capacity(scores.flip(0), 2, 160), lpr.MinCostFlow())
    problem = lpr.problems.capacity(scores, 2, 160)
    wrong = lpr.Prices(experts=torch.linspace(-5, 50, 32).double())
    for solver in (
        lpr.MinCostFlow(seed=7),
        lpr.MinCostFlow(start=best.prices),
        lpr.MinCostFlow(start=wrong),
    ):
        solution = lpr.solve(problem, solver, integral=True)
        assert solution.status is lpr.Status.OPTIMAL
        assert solution.value == best.value == turned.value
        assert lpr.certify(problem, solution.assignment, solution.prices, exact=True).gap == 0


def test_out_of_time_leaves_a_feasible_assignment_and_a_bound():
    problem = lpr.problems.balanced(skewed(2), 2)
    best = lpr.solve(problem, lpr.MinCostFlow())
    solution = lpr.solve(problem, lpr.MinCostFlow(time_limit_s=1e-6))
    assert solution.status in (lpr.Status.TIME_LIMIT, lpr.Status.OPTIMAL)  # it may be the best
    assert kkt.primal_feasibility(problem, solution.assignment.x) == 0
    rounding = 1 + 1e-12
    assert float(solution.value) <= float(best.value) * rounding
    assert float(best.value) <= float(solution.bound) * rounding


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"start": torch.zeros(3)}, r"start=.*expected Prices"),
        ({"relative_gap": -1}, r"relative_gap=-1: expected a number >= 0"),
        ({"relative_gap": float("nan")}, "relative_gap=nan"),
        ({"time_limit_s": 0}, r"time_limit_s=0\): expected a positive number"),
        ({"group": "world"}, "not initialised"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, words):
    with pytest.raises(lpr.InputError, match=words):
        lpr.MinCostFlow(**options)
