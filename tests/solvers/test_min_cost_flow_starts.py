"""MinCostFlow from prices of other batches, to a gap that will do, and what it refuses."""

import pytest
import torch

import lp_routing as lpr
from lp_routing import at_least, at_most, between, exactly
from tests.cases import CASES
from tests.solvers.test_hard_cases import skewed

INF = float("inf")
PROBLEM = lpr.problems.capacity([[3, 1], [2, 1]], 1, 1)


def batches(layer, size=2048):
    """A layer of the sample, its tokens shuffled, so that batches differ by chance alone."""
    scores = lpr.scores.softmax(lpr.traces.sample().layer(layer))
    order = torch.randperm(len(scores), generator=torch.Generator().manual_seed(layer))
    return [
        lpr.problems.capacity(part, 2, int(1.25 * size * 2 / 32))
        for part in scores[order].split(size)
    ]


@pytest.mark.parametrize("layer", range(4))
def test_prices_of_the_last_batch_lead_to_the_optimum_of_this_one(layer):
    first, *others = batches(layer)
    prices = lpr.solve(first, lpr.MinCostFlow()).prices
    for problem in others:
        cold, warm = (lpr.solve(problem, lpr.MinCostFlow(start=start)) for start in (None, prices))
        assert cold.status is warm.status is lpr.Status.OPTIMAL
        assert float(warm.value) == pytest.approx(float(cold.value), rel=1e-12)
        prices = warm.prices


@pytest.mark.parametrize("case", [c for c in CASES if c.problem.is_integral], ids=lambda c: c.name)
@pytest.mark.parametrize("size", [0.0, 1.0, -1.0, 1e9], ids=str)
def test_wrong_prices_to_start_from_lead_to_the_same_end(case, size):
    start = lpr.Prices(experts=torch.full((case.problem.E,), size).double())
    solution = lpr.solve(case.problem, lpr.MinCostFlow(start=start))
    assert solution.status is case.status, solution.explanation
    assert float(solution.value) == case.value


@pytest.mark.parametrize(
    ("prices", "words"),
    [
        (lpr.Prices(experts=torch.zeros(3)), "expected 2, got 3"),
        (lpr.Prices(experts=torch.tensor([0, float("nan")])), "must be finite, got nan"),
        (lpr.Prices(token_groups=torch.zeros(2)), "the problem has no token_groups"),
    ],
)
def test_prices_of_another_problem_are_refused(prices, words):
    with pytest.raises(lpr.InputError, match=words):
        lpr.solve(PROBLEM, lpr.MinCostFlow(start=prices))


@pytest.mark.parametrize("gap", [1e-3, 0.05])
def test_a_gap_that_will_do_is_proved(gap):
    problem = lpr.problems.balanced(skewed(2048, 32), 2)
    exact = lpr.solve(problem, lpr.MinCostFlow())
    close = lpr.solve(problem, lpr.MinCostFlow(relative_gap=gap))
    assert exact.status is lpr.Status.OPTIMAL
    assert close.status in (lpr.Status.FEASIBLE, lpr.Status.OPTIMAL)
    assert close.certificate.relative_gap <= gap
    assert close.certificate.violation == 0
    assert float(close.value) <= float(exact.value) <= float(close.bound) * (1 + 1e-12)


def test_whole_amounts_within_fractional_bounds():
    # at most 1.5 pairs in all are one pair in whole numbers: 5 of 5 and 4
    problem = lpr.RoutingProblem([[5, 4]], total=at_most(1.5))
    assert lpr.solve(problem, "mincostflow", integral=True).value == 5


@pytest.mark.parametrize("tokens", [exactly(2), at_least(2), between([2, 0], [2, 2])], ids=str)
def test_a_token_with_fewer_allowed_experts_than_it_must_take_is_explained(tokens):
    # token 0 may go to expert 0 alone, once, and must take two
    solution = lpr.solve(
        lpr.RoutingProblem([[0.0, -INF], [1, 2]], tokens=tokens), lpr.MinCostFlow()
    )
    assert solution.status is lpr.Status.INFEASIBLE
    assert "token 0 needs 2" in solution.explanation
    assert solution.infeasibility.shortfall == 1


@pytest.mark.parametrize(
    "options",
    [
        {"relative_gap": "small"},
        {"relative_gap": None},
        {"relative_gap": True},
        {"relative_gap": INF},
        {"time_limit_s": float("nan")},
        {"time_limit_s": "soon"},
        {"seed": "x"},
        {"seed": 1.5},
        {"seed": 2**70},
        {"time_limit_s": True},
    ],
    ids=str,
)
def test_options_that_are_no_numbers_are_refused_by_name(options):
    with pytest.raises(lpr.InputError, match=next(iter(options))):
        lpr.solve(PROBLEM, lpr.MinCostFlow(**options))
