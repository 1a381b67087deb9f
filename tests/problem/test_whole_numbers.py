"""Where the LP is integral, why not where it is not, and the MILP there."""

import pytest
import torch

import lp_routing as lpr
from lp_routing import at_most, between

TRIANGLE = [([0, 1], at_most(1)), ([1, 2], at_most(1)), ([0, 2], at_most(1))]


def test_whole_bounds_and_nested_groups_are_integral():
    nested = [([0, 1], at_most(1)), ([0, 1, 2], at_most(2)), ([3], at_most(1))]
    problem = lpr.RoutingProblem(torch.ones(2, 4), tokens=at_most(1), expert_groups=nested)
    assert problem.is_integral
    assert problem.why_not_integral is None


def test_a_fractional_budget_is_not_integral_and_says_so():
    problem = lpr.RoutingProblem([[5, 4]], total=at_most(1.5))
    assert not problem.is_integral
    assert problem.why_not_integral == "the bound 1.5 on total is not a whole number"


def test_crossing_groups_are_not_integral_and_are_named():
    problem = lpr.RoutingProblem([[2, 2, 2]], expert_groups=TRIANGLE)
    assert "expert_group_0 and expert_group_1 cross" in problem.why_not_integral


def test_three_crossing_devices_hold_one_pair_not_one_and_a_half():
    # LP: half of each expert, value 3; in whole numbers any one expert, value 2.
    problem = lpr.RoutingProblem([[2, 2, 2]], expert_groups=TRIANGLE)
    relaxed, whole = lpr.solve(problem), lpr.solve(problem, integral=True)
    assert relaxed.value == 3
    assert whole.status is lpr.Status.OPTIMAL
    assert whole.value == 2
    assert whole.assignment.is_whole
    assert whole.certificate.proof == "branch and bound (HiGHS)"


def test_a_fractional_budget_in_whole_numbers_needs_no_search():
    # Rounding 1.5 down to 1 makes the LP integral, so duality itself is the proof.
    solution = lpr.solve(lpr.RoutingProblem([[5, 4]], total=at_most(1.5)), integral=True)
    assert solution.value == 5
    assert solution.certificate.proof == "weak duality"
    assert solution.status is lpr.Status.OPTIMAL


def test_bounds_that_no_whole_number_satisfies_are_refused():
    problem = lpr.RoutingProblem([[5, 4, 3]], total=between(2.2, 2.8))
    with pytest.raises(lpr.InputError, match=r"total: no whole number lies between 2\.2 and 2\.8"):
        lpr.solve(problem, integral=True)


@pytest.mark.parametrize(
    ("solver", "words"), [("cvxpy", "for whole numbers use HiGHS"), ("mincostflow", "use HiGHS")]
)
def test_solvers_without_branch_and_bound_refuse_crossing_groups_in_whole_numbers(solver, words):
    problem = lpr.RoutingProblem([[2, 2, 2]], expert_groups=TRIANGLE)
    with pytest.raises(lpr.InputError, match=words):
        lpr.solve(problem, solver, integral=True)


@pytest.mark.parametrize("seed", range(8))
def test_the_milp_agrees_with_brute_force_on_random_crossing_groups(seed):
    from tests.brute_force import best_value

    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(-4, 17, (4, 4), generator=generator).double()
    groups = [([0, 1], at_most(2)), ([1, 2], at_most(1)), ([0, 2, 3], at_most(3))]
    problem = lpr.RoutingProblem(scores, tokens=at_most(2), expert_groups=groups)
    assert not problem.is_integral
    solution = lpr.solve(problem, integral=True)
    assert float(solution.value) == pytest.approx(best_value(problem), abs=1e-9)
    assert solution.status is lpr.Status.OPTIMAL


@pytest.mark.parametrize("options", [{}, {"solver": "ipm", "run_crossover": "off"}])
def test_whole_numbers_are_whole_even_from_a_solver_that_stops_between_vertices(options):
    problem = lpr.problems.balanced(torch.ones(4, 2), 1)
    solution = lpr.solve(problem, lpr.HiGHS(**options), integral=True)
    assert solution.assignment.is_whole
    assert solution.status is lpr.Status.OPTIMAL
    assert solution.value == 4


def test_what_is_impossible_in_whole_numbers_only_is_infeasible():
    # three tokens, every two of them share exactly one pair: only halves do
    groups = [([0, 1], lpr.exactly(1)), ([1, 2], lpr.exactly(1)), ([0, 2], lpr.exactly(1))]
    problem = lpr.RoutingProblem(torch.ones(3, 1), token_groups=groups)
    assert lpr.solve(problem).value == 1.5
    whole = lpr.solve(problem, integral=True)
    assert whole.status is lpr.Status.INFEASIBLE
    assert "though fractional ones do" in whole.explanation
    assert whole.value == whole.bound == -float("inf")


def test_the_solution_keeps_the_problem_that_was_asked():
    problem = lpr.RoutingProblem([[5, 4]], total=at_most(1.5))
    assert lpr.solve(problem, integral=True).problem is problem


def test_bounds_a_little_off_whole_numbers_are_kept():
    problem = lpr.RoutingProblem(torch.ones(2, 2), tokens=lpr.exactly(1 + 5e-7))
    solution = lpr.solve(problem)
    assert solution.status is lpr.Status.OPTIMAL
    assert float(solution.value) == pytest.approx(2 + 1e-6, abs=1e-12)
