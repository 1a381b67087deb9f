"""OR-tools' min-cost flow, another algorithm by other people, on the same problems."""

import numpy as np
import pytest
import torch

import lp_routing as lpr
from tests.or_tools import apart, flow_value, loaded

SCALE = 2**20


def best_flow(scores, k, capacity, balanced):
    """Value of the best flow by OR-tools; None if infeasible."""
    return apart(flow_value, scores, k, capacity, balanced, SCALE)


def dyadic_scores(seed, T, E, forbidden=0.0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(T, 4, generator=generator) @ torch.randn(4, E, generator=generator)
    scores = (torch.softmax(logits, 1) * SCALE).round().double() / SCALE
    return scores.masked_fill(torch.rand(T, E, generator=generator) < forbidden, -np.inf)


def test_or_tools_never_shares_a_process_with_highs():
    assert best_flow(np.ones((2, 2)), 1, 1, balanced=True) == 2
    assert "highspy" not in apart(loaded)
    assert "ortools.graph.python" in apart(loaded)
    assert "ortools.graph.python" not in loaded()  # cvxpy imports the bare package


@pytest.mark.parametrize(("solver", "off"), [("mincostflow", 0), ("highs", 0), ("cvxpy", 1e-6)])
@pytest.mark.parametrize(("T", "E", "k"), [(64, 8, 1), (96, 16, 2), (120, 12, 4)])
@pytest.mark.parametrize("seed", range(3))
def test_balanced_and_capacity_optima_are_those_of_the_flow(seed, T, E, k, solver, off):
    scores = dyadic_scores(seed, T, E)
    C = T * k // E
    balanced = lpr.solve(lpr.problems.balanced(scores, k), solver)
    expected = best_flow(scores.numpy(), k, C, balanced=True)
    assert float(balanced.value) == pytest.approx(expected, rel=off, abs=0)
    capped = lpr.solve(lpr.problems.capacity(scores, k, C - 2), solver)
    expected = best_flow(scores.numpy(), k, C - 2, balanced=False)
    assert float(capped.value) == pytest.approx(expected, rel=off, abs=0)


@pytest.mark.parametrize("seed", range(12))
def test_flow_and_lp_agree_on_what_is_impossible(seed):
    scores = dyadic_scores(seed, 24, 6, forbidden=0.7)
    scores[~(scores > -np.inf).any(1), 0] = 0.0
    expected = best_flow(scores.numpy(), 1, 4, balanced=True)
    problem = lpr.RoutingProblem(scores, tokens=lpr.exactly(1), experts=lpr.at_most(4))
    solution = lpr.solve(problem)
    if expected is None:
        assert solution.status is lpr.Status.INFEASIBLE
    else:
        assert float(solution.value) == expected


def test_the_random_family_holds_both_kinds():
    values = []
    for seed in range(12):
        scores = dyadic_scores(seed, 24, 6, forbidden=0.7)
        scores[~(scores > -np.inf).any(1), 0] = 0.0
        values.append(best_flow(scores.numpy(), 1, 4, balanced=True))
    assert None in values
    assert any(value is not None for value in values)


def test_all_solvers_agree_on_a_layer_of_the_sample():
    logits = lpr.traces.sample().layer(0)[:256]
    scores = (torch.softmax(logits.float(), 1) * SCALE).round().double() / SCALE
    problem = lpr.problems.balanced(scores, 2)
    expected = best_flow(scores.numpy(), 2, 16, balanced=True)
    assert float(lpr.solve(problem, "highs").value) == expected
    assert float(lpr.solve(problem, "cvxpy").value) == pytest.approx(expected, rel=1e-6)
