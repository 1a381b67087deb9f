"""`MinCostFlow` on thousands of random problems: against HiGHS, OR-tools and brute force."""

import itertools

import numpy as np
import pytest
import torch

import lp_routing as lpr
from lp_routing.solvers.min_cost_flow import MinCostFlow
from lp_routing.solvers.min_cost_flow.device import DeviceRows
from tests.or_tools import apart, flow_value
from tests.random_problems import random_problem

DYADIC = (torch.float32, torch.bfloat16, torch.float16)


def check(problem, solution, seed):
    """Whole amounts, no broken bound, no gap; none at all where scores are dyadic."""
    certificate = solution.certificate
    assert solution.status is lpr.Status.OPTIMAL, seed
    assert solution.assignment.is_whole, seed
    assert certificate.violation_count == 0, seed
    assert abs(certificate.relative_gap) <= 1e-12, seed
    if problem.scores.dtype in DYADIC:
        exact = lpr.certify(problem, solution.assignment, solution.prices, exact=True)
        assert exact.gap == 0, seed


@pytest.mark.parametrize("first", range(0, 3000, 150))
def test_agrees_with_highs(first):
    for seed in range(first, first + 150):
        problem = random_problem(seed)
        if problem is None:
            continue
        ours = lpr.solve(problem, MinCostFlow())
        truth = lpr.solve(problem, lpr.HiGHS())
        if truth.status is lpr.Status.INFEASIBLE:
            assert ours.status is lpr.Status.INFEASIBLE, seed
            assert ours.infeasibility is not None, seed
            continue
        check(problem, ours, seed)
        assert ours.value == pytest.approx(truth.value, rel=1e-8, abs=1e-8), seed


@pytest.mark.parametrize("first", range(0, 1500, 250))
def test_agrees_with_or_tools(first):
    for seed in range(first, first + 250):
        rng = np.random.default_rng(seed)
        T, E = int(rng.integers(1, 40)), int(rng.integers(1, 9))
        K = int(rng.integers(1, E + 1))
        scores = rng.integers(0, int(rng.choice([2, 5, 1000])), (T, E))
        capacity = rng.integers(0, 2 * T * K // E + 2, E)
        truth = apart(flow_value, scores, K, capacity, True, 1)
        problem = lpr.RoutingProblem(
            torch.as_tensor(scores, dtype=torch.float32),
            tokens=lpr.exactly(K),
            experts=lpr.at_most(capacity.tolist()),
        )
        ours = lpr.solve(problem, MinCostFlow())
        if truth is None:
            assert ours.status is lpr.Status.INFEASIBLE, seed
        else:
            check(problem, ours, seed)
            assert ours.value == truth, seed


@pytest.mark.parametrize("first", range(0, 1000, 250))
def test_agrees_with_trying_everything(first):
    for seed in range(first, first + 250):
        problem = random_problem(100_000 + seed, most_tokens=3, most_experts=3)
        if problem is None or problem.T * problem.E > 6:
            continue
        most = problem.copies()[:, None].expand(problem.T, problem.E).long().flatten()
        if int((most + 1).prod()) > 2000:
            continue
        choices = itertools.product(*(range(int(n) + 1) for n in most))
        every = torch.tensor(list(choices)).reshape(-1, problem.T, problem.E)
        kept = feasible(problem, every)
        ours = lpr.solve(problem, MinCostFlow())
        if not len(kept):
            assert ours.status is lpr.Status.INFEASIBLE, seed
            continue
        scores = problem.scores.double().nan_to_num(neginf=0.0)
        best = float((kept * scores).sum((1, 2)).max())
        assert ours.value == pytest.approx(best, rel=1e-12, abs=1e-12), seed


def feasible(problem, x):
    """Of amounts (n, T, E), those that keep all bounds and forbidden pairs."""
    fits = ((x == 0) | problem.allowed).all(2).all(1)
    for family in problem.families:
        counted = torch.stack(
            [family.activity(each.double().sum(1), each.double().sum(0)) for each in x]
        )
        fits &= ((counted >= family.lower) & (counted <= family.upper)).all(1)
    return x[fits].double()


@pytest.mark.parametrize("first", range(0, 300, 100))
def test_rows_on_a_device_give_the_same_optimum(first, monkeypatch):
    """The passes in torch, here on the CPU, against those in numba."""
    for seed in range(first, first + 100):
        problem = random_problem(200_000 + seed)
        if problem is None:
            continue
        here = lpr.solve(problem, MinCostFlow())
        with monkeypatch.context() as patched:
            patched.setattr("lp_routing.solvers.min_cost_flow.solver.Rows", DeviceRows)
            there = lpr.solve(problem, MinCostFlow())
        assert there.status is here.status, seed
        if here.status is lpr.Status.OPTIMAL:
            check(problem, there, seed)
            assert there.value == pytest.approx(here.value, rel=1e-12, abs=1e-12), seed


def random_prices(problem, seed):
    """Prices of every constraint but tokens, from far too small to far too large, either sign."""
    rng = np.random.default_rng(seed)
    size = 10.0 ** int(rng.integers(-3, 4))
    named = {"expert": "experts", "expert_group": "expert_groups", "token_group": "token_groups"}
    table = {
        named[family.kind]: torch.as_tensor(size * rng.normal(size=len(family)))
        for family in problem.families
        if family.kind in named
    }
    total = {} if problem.family("total") is None else {"total": size * float(rng.normal())}
    return lpr.Prices(**table, **total)


@pytest.mark.parametrize("first", range(0, 600, 150))
def test_larger_problems_are_proved_from_any_start(first):
    """The certificate is the oracle: an optimum is proved, and so is that there is none."""
    for seed in range(first, first + 150):
        problem = random_problem(400_000 + seed, most_tokens=200, most_experts=12)
        if problem is None or 0 < problem.score_scale < 1e-250:
            continue
        solution = lpr.solve(problem, MinCostFlow(start=random_prices(problem, seed)))
        if solution.status is lpr.Status.INFEASIBLE:
            assert solution.infeasibility is not None, seed
        else:
            check(problem, solution, seed)


def test_the_check_rejects():
    """An assignment that is not the best, and one that breaks a bound, do not pass `check`."""
    problem = lpr.RoutingProblem(
        torch.tensor([[2.0, 1.0], [2.0, 0.0]]), tokens=lpr.exactly(1), experts=lpr.at_most(1)
    )
    solution = lpr.solve(problem, MinCostFlow())
    check(problem, solution, 0)
    for x in (torch.eye(2).bool(), torch.tensor([[True, False], [True, False]])):
        wrong = lpr.certify(problem, x, solution.prices)
        assert wrong.violation_count or abs(wrong.relative_gap) > 1e-12
