"""Options of solvers: what is misspelt is refused, what is set has an effect."""

import subprocess
import sys

import pytest
import torch

import lp_routing as lpr

PROBLEM = lpr.problems.balanced([[3, 1], [2, 1]], 1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: lpr.HiGHS(presolv="off"), r"no option 'presolv'; did you mean 'presolve'"),
        (lambda: lpr.HiGHS(xyzzy=1), "no option 'xyzzy'; it has: "),
        (lambda: lpr.HiGHS(presolve="maybe"), "HiGHS refuses presolve='maybe'"),
        (lambda: lpr.HiGHS(simplex_iteration_limit=1.5), "it takes certain values of type int"),
        (lambda: lpr.HiGHS(time_limit_s=-1), r"time_limit_s=-1\): expected a positive number"),
        (lambda: lpr.HiGHS(time_limit_s="soon"), r"time_limit_s='soon'"),
        (lambda: lpr.CVXPY("NOSUCH"), r"backend='NOSUCH'\): not among the installed solvers"),
        (lambda: lpr.CVXPY(max_itr=3), "did you mean 'max_iter'"),
        (lambda: lpr.CVXPY("HIGHS", presolv="on"), "did you mean 'presolve'"),
        (lambda: lpr.CVXPY("SCS", eps=1), "options are for CLARABEL and HIGHS only"),
        (lambda: lpr.CVXPY(time_limit_s=0), r"time_limit_s=0\)"),
        (lambda: lpr.solve(PROBLEM, lpr.CVXPY(max_iter="many")), "refuses its options"),
    ],
)
def test_what_a_solver_does_not_have_is_refused_by_name(make, words):
    with pytest.raises(lpr.errors.OptionError, match=words):
        make()


def test_an_option_error_is_a_value_and_a_type_error():
    assert issubclass(lpr.errors.OptionError, lpr.InputError)
    assert issubclass(lpr.errors.OptionError, TypeError)
    assert issubclass(lpr.InputError, ValueError)


@pytest.mark.parametrize(
    "solver",
    [
        lpr.HiGHS(simplex_iteration_limit=0),
        lpr.CVXPY(max_iter=0),
        lpr.CVXPY("HIGHS", simplex_iteration_limit=0),
    ],
    ids=lambda solver: solver.name,
)
def test_options_reach_the_solver(solver):
    hard = lpr.problems.balanced(torch.rand(32, 4, generator=torch.Generator().manual_seed(0)), 2)
    solution = lpr.solve(hard, solver)
    assert solution.status is not lpr.Status.OPTIMAL
    assert solution.explanation


@pytest.mark.parametrize("name", ["highs", "HiGHS", "cvxpy", "MinCostFlow", "min_cost_flow"])
def test_solvers_go_by_their_names_too(name):
    assert lpr.solve(PROBLEM, name).status is lpr.Status.OPTIMAL


@pytest.mark.parametrize("solver", ["gurobi", "scipy", 3])
def test_an_unknown_solver_is_refused(solver):
    with pytest.raises(lpr.InputError, match=r"unknown solver .*cvxpy, highs, min_cost_flow"):
        lpr.solve(PROBLEM, solver)


def test_without_a_solver_flows_go_to_the_flow_and_all_else_to_highs():
    half = lpr.RoutingProblem([[5, 4]], total=lpr.at_most(1.5))
    assert lpr.solve(PROBLEM).solver == "MinCostFlow"
    assert lpr.solve(half).solver == "HiGHS"
    assert lpr.solve(half, integral=True).solver == "MinCostFlow"


def test_the_former_name_still_solves_and_says_what_to_use():
    with pytest.warns(DeprecationWarning, match="Pricing is now called MinCostFlow"):
        solver = lpr.Pricing(dtype=torch.float32, device="cpu", seed=3)
    assert isinstance(solver, lpr.MinCostFlow)
    assert lpr.solve(PROBLEM, solver).status is lpr.Status.OPTIMAL
    with pytest.warns(DeprecationWarning, match="MinCostFlow"):
        assert lpr.solve(PROBLEM, "pricing").value == 4


def test_something_else_than_a_problem_is_refused():
    with pytest.raises(lpr.InputError, match="expects a RoutingProblem first, got list"):
        lpr.solve([[1, 2]])


def test_a_tolerance_of_ones_own_decides_what_counts_as_optimal():
    strict = lpr.solve(PROBLEM, "cvxpy", tolerance=1e-30)
    assert strict.status is not lpr.Status.OPTIMAL or strict.certificate.relative_gap == 0
    assert lpr.solve(PROBLEM, "highs", tolerance=0).status is lpr.Status.OPTIMAL


@pytest.mark.parametrize("tolerance", [-1, 1, float("nan"), float("inf"), "a"])
def test_a_tolerance_that_is_none_is_refused(tolerance):
    with pytest.raises(lpr.InputError, match=r"expected a number from 0 to below 1, such as 1e-9"):
        lpr.solve(PROBLEM, tolerance=tolerance)


def test_statuses_explain_themselves():
    for status in lpr.Status:
        assert len(status.value) > 40


def test_highs_prints_nothing():
    """Since 1.16 it prints a banner where it is made, once in a process; hence a fresh one."""
    code = (
        "import lp_routing as lpr; problem = lpr.problems.token_choice([[2.0, 1.0]], 1);"
        "lpr.solve(problem, lpr.HiGHS()); lpr.solve(problem, lpr.HiGHS(), integral=True)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert (ended.stdout, ended.stderr) == (b"", b"")
