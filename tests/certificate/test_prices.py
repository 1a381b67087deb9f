"""Prices are derivatives of the optimal value: what one more slot is worth."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given

import lp_routing as lpr
from lp_routing import at_most, between, exactly
from tests.strategies import problems

STEP = 1 / 64


def shifted(problem, kind, row, by):
    """The problem with both bounds of one constraint moved by `by`."""
    families = []
    for family in problem.families:
        if family.kind == kind:
            move = torch.zeros_like(family.lower)
            move[row] = by
            # a bound of 0 stays: it is the absence of a bound
            lower = torch.where(family.lower > 0, family.lower + move, family.lower)
            families.append(replace(family, lower=lower, upper=family.upper + move))
        else:
            families.append(family)
    return problem.with_families(tuple(families))


def price_of(solution, kind, row):
    if kind == "token":
        return float(lpr.token_prices(solution.problem, solution.prices)[row])
    if kind == "total":
        return solution.prices.total
    return float(getattr(solution.prices, f"{kind}s")[row])


def generic(seed=0, T=10, E=4):
    return torch.rand(T, E, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


PROBLEMS = {
    "capacity": lpr.problems.capacity(generic(1), 2, 4),
    "served": lpr.problems.served_unified(generic(2), 15),
    "floor": lpr.RoutingProblem(generic(3), tokens=exactly(1), experts=between(2, 4)),
    "groups": lpr.RoutingProblem(
        generic(4),
        tokens=at_most(3),
        experts=at_most(6),
        token_groups=lpr.groups_by([0] * 5 + [1] * 5, at_most(7)),
        expert_groups=lpr.groups_by([0, 0, 1, 1], between(5, 6)),
    ),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_price_lies_between_the_right_and_the_left_derivative(name):
    problem = PROBLEMS[name]
    solution = lpr.solve(problem)
    compared = 0
    for family in problem.families:
        for row in range(len(family)):
            up = lpr.solve(shifted(problem, family.kind, row, STEP))
            down = lpr.solve(shifted(problem, family.kind, row, -STEP))
            price = price_of(solution, family.kind, row)
            if up.status is lpr.Status.OPTIMAL:
                assert (up.value - solution.value) / STEP <= price + 1e-9
                compared += 1
            if down.status is lpr.Status.OPTIMAL:
                assert (solution.value - down.value) / STEP >= price - 1e-9
                compared += 1
    assert compared >= 10


def test_prices_of_equations_are_derivatives_along_what_stays_feasible():
    # one more pair for token i must go to some expert j: both equations move together
    problem = lpr.problems.balanced(generic(0), 2)
    solution = lpr.solve(problem)
    for i in range(problem.T):
        for j in range(problem.E):
            price = price_of(solution, "token", i) + price_of(solution, "expert", j)
            for by in (STEP, -STEP):
                moved = lpr.solve(shifted(shifted(problem, "token", i, by), "expert", j, by))
                assert moved.status is lpr.Status.OPTIMAL
                assert moved.value - solution.value <= by * price + 1e-9


def test_the_check_of_prices_rejects_a_wrong_one():
    problem = PROBLEMS["capacity"]
    solution = lpr.solve(problem)
    wrong = price_of(solution, "expert", 0) + 1
    down = lpr.solve(shifted(problem, "expert", 0, -STEP))
    assert (solution.value - down.value) / STEP < wrong - 1e-9


@given(problems())
def test_doubled_scores_have_doubled_prices(problem):
    solution = lpr.solve(problem)
    if solution.status is not lpr.Status.OPTIMAL:
        return
    doubled = problem.with_scores(problem.scores * 2)
    certificate = lpr.certify(doubled, solution.assignment, solution.prices.times(2), exact=True)
    assert certificate.gap == 0


@given(problems(groups=False))
def test_token_prices_complete_the_dual_objective(problem):
    # bound = sum of limits times prices + what pairs earn beyond all prices (strong duality)
    solution = lpr.solve(problem)
    if solution.status is not lpr.Status.OPTIMAL:
        return
    slot = lpr.token_prices(problem, solution.prices)
    lower, upper = problem.token_bounds()
    limits = torch.where(slot > 0, upper, lower).nan_to_num(posinf=0.0)
    on_experts = solution.prices.experts.clamp(min=-1e9)
    total = problem.family("total")
    rest = slot @ limits
    experts = problem.family("expert")
    if experts is not None:
        chosen = torch.where(on_experts > 0, experts.upper, experts.lower).nan_to_num(posinf=0.0)
        rest = rest + on_experts @ chosen
    if total is not None:
        price = solution.prices.total
        rest = rest + price * float(total.upper if price > 0 else total.lower)
    earned = problem.scores - (on_experts if experts is not None else 0)
    earned = earned - (solution.prices.total if total is not None else 0) - slot[:, None]
    rest = rest + (earned.clamp(min=0) * problem.copies()[:, None]).sum()
    assert float(rest) == pytest.approx(float(solution.value), abs=1e-9)
