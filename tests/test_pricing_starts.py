"""Pricing from prices of other batches, to a gap that will do, and what it refuses."""

import pytest
import torch

import lp_routing as lpr
from lp_routing import at_least, at_most, between, exactly
from lp_routing.pricing import narrowing
from lp_routing.pricing import solver as story
from lp_routing.pricing.clearing import Markets
from tests.cases import CASES
from tests.test_hard_cases import skewed

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


@pytest.fixture
def sweeps(monkeypatch):
    """One entry for each time that all markets were cleared."""
    counted, real = [], Markets.sweep

    def sweep(self, *given):
        counted.append(1)
        return real(self, *given)

    monkeypatch.setattr(Markets, "sweep", sweep)
    return counted


@pytest.fixture
def too_narrow(monkeypatch):
    """Boxes without any room: a sample's prices are taken at their word, and are wrong."""
    for room in ("STANDARD_ERRORS", "FEW", "DRIFT", "SPREAD"):
        monkeypatch.setattr(narrowing, room, 0.0)


@pytest.mark.parametrize("layer", range(4))
def test_prices_of_the_last_batch_spare_sweeps(layer, sweeps):
    first, *others = batches(layer)
    prices = lpr.solve(first, lpr.Pricing()).prices
    counts = {"cold": 0, "warm": 0}
    for problem in others:
        found = {}
        for name, start in (("cold", None), ("warm", prices)):
            sweeps.clear()
            found[name] = lpr.solve(problem, lpr.Pricing(start=start))
            assert found[name].status is lpr.Status.OPTIMAL
            counts[name] += len(sweeps)
        assert float(found["warm"].value) == pytest.approx(float(found["cold"].value), rel=1e-12)
        prices = found["warm"].prices
    assert counts["warm"] < counts["cold"]


@pytest.mark.parametrize("case", [c for c in CASES if c.problem.is_integral], ids=lambda c: c.name)
@pytest.mark.parametrize("size", [0.0, 1.0, -1.0, 1e9], ids=str)
def test_wrong_prices_to_start_from_lead_to_the_same_end(case, size):
    start = lpr.Prices(experts=torch.full((case.problem.E,), size).double())
    solution = lpr.solve(case.problem, lpr.Pricing(start=start))
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
        lpr.solve(PROBLEM, lpr.Pricing(start=prices))


def test_a_gap_that_will_do_is_proved_and_not_called_optimal(too_narrow, monkeypatch):
    problem, passes, real = lpr.problems.balanced(skewed(2048, 32), 2), [], story.contested
    monkeypatch.setattr(story, "contested", lambda *a, **k: passes.append(1) or real(*a, **k))
    exact = lpr.solve(problem, lpr.Pricing())
    needed = len(passes)
    assert exact.status is lpr.Status.OPTIMAL
    assert needed > 1  # the box was too narrow, and was widened
    passes.clear()
    close = lpr.solve(problem, lpr.Pricing(relative_gap=0.05))
    assert len(passes) < needed
    assert close.status is lpr.Status.FEASIBLE
    assert "stopped within the relative gap 0.05" in close.explanation
    assert 0 < close.certificate.relative_gap <= 0.05
    assert close.certificate.violation == 0
    assert float(close.value) <= float(exact.value) <= float(close.bound)


def test_passes_that_do_not_suffice_are_a_failure_in_words(too_narrow, monkeypatch):
    monkeypatch.setattr(story, "MOST_PASSES", 1)
    problem = lpr.problems.balanced(skewed(2048, 32), 2)
    solution = lpr.solve(problem, lpr.Pricing())
    assert solution.status is lpr.Status.FAILED
    assert "bounds are still missed after 1 passes" in solution.explanation
    assert float(solution.bound) >= float(lpr.solve(problem, lpr.Pricing(seed=1)).bound) - 1e-9


def test_whole_amounts_within_fractional_bounds():
    # at most 1.5 pairs in all are one pair in whole numbers: 5 of 5 and 4
    problem = lpr.RoutingProblem([[5, 4]], total=at_most(1.5))
    assert lpr.solve(problem, "pricing", integral=True).value == 5


@pytest.mark.parametrize("tokens", [exactly(2), at_least(2), between([2, 0], [2, 2])], ids=str)
def test_a_token_with_fewer_allowed_experts_than_it_must_take_is_explained(tokens):
    # token 0 may go to expert 0 alone, once, and must take two
    solution = lpr.solve(lpr.RoutingProblem([[0.0, -INF], [1, 2]], tokens=tokens), lpr.Pricing())
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
        {"dtype": "float32"},
        {"dtype": torch.bfloat16},
        {"seed": "x"},
        {"seed": 1.5},
        {"seed": 2**70},
        {"device": "nonsense"},
        {"device": "meta"},
        {"time_limit_s": True},
    ],
    ids=str,
)
def test_options_that_are_no_numbers_are_refused_by_name(options):
    with pytest.raises(lpr.InputError, match=next(iter(options))):
        lpr.solve(PROBLEM, lpr.Pricing(**options))
