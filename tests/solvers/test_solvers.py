"""Every solver, every case, four conditions of optimality; and solvers against other oracles."""

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lp_routing as lpr
from lp_routing.solvers.highs import search
from lp_routing.solvers.solve import _with_search_bound
from tests import kkt
from tests.brute_force import best_value
from tests.cases import CASES, FEASIBLE
from tests.strategies import problems

# solver, and how far its answers may be off
SOLVERS = [
    pytest.param(lpr.HiGHS(), 1e-9, id="HiGHS"),
    pytest.param(lpr.HiGHS(solver="ipm"), 1e-9, id="HiGHS-ipm"),
    pytest.param(None, 1e-9, id="the default"),
    pytest.param(lpr.CVXPY("HIGHS"), 1e-9, id="CVXPY-HIGHS"),
    pytest.param(lpr.CVXPY("CLARABEL"), 1e-5, id="CVXPY-CLARABEL"),
]


def by_name(cases):
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


@by_name(CASES)
@pytest.mark.parametrize(("solver", "tolerance"), SOLVERS)
def test_status_and_value_are_those_worked_by_hand(case, solver, tolerance):
    solution = lpr.solve(case.problem, solver)
    assert solution.status is case.status, solution.explanation
    if case.status is lpr.Status.OPTIMAL:
        assert float(solution.value) == pytest.approx(case.value, abs=10 * tolerance)
        assert float(solution.bound) == pytest.approx(case.value, abs=10 * tolerance)
    else:
        assert solution.value == -np.inf
        assert solution.assignment is None


@by_name(FEASIBLE)
@pytest.mark.parametrize(("solver", "tolerance"), SOLVERS)
def test_the_four_conditions_of_optimality_hold(case, solver, tolerance):
    solution = lpr.solve(case.problem, solver)
    x, prices = solution.assignment.x, solution.prices
    assert kkt.primal_feasibility(case.problem, x) <= tolerance
    assert kkt.dual_sign(case.problem, prices) <= tolerance
    assert kkt.complementarity(case.problem, x, prices) <= tolerance
    assert kkt.stationarity(case.problem, x, prices) <= tolerance


@by_name([case for case in FEASIBLE if case.prices is not None])
@pytest.mark.parametrize(("solver", "tolerance"), SOLVERS)
def test_prices_are_those_worked_by_hand(case, solver, tolerance):
    found = lpr.solve(case.problem, solver).prices.experts
    assert found.tolist() == pytest.approx(case.prices, abs=10 * tolerance)


@by_name(FEASIBLE)
def test_exact_certificates_of_vertices_are_exactly_zero(case):
    solution = lpr.solve(case.problem)
    certificate = lpr.certify(case.problem, solution.assignment, solution.prices, exact=True)
    assert certificate.gap == 0
    assert certificate.violation == 0


@given(problems())
@settings(max_examples=150)
def test_brute_force_finds_the_same_value_and_the_same_impossibility(problem):
    solution = lpr.solve(problem)
    assert float(solution.value) == pytest.approx(best_value(problem), abs=1e-9)
    assert (solution.status is lpr.Status.INFEASIBLE) == (best_value(problem) == -np.inf)


@given(problems())
@settings(max_examples=60)
def test_clarabel_agrees_with_highs_failures_included(problem):
    first, second = lpr.solve(problem, "highs"), lpr.solve(problem, "cvxpy")
    assert first.status is second.status
    if first.status is lpr.Status.OPTIMAL:
        assert float(second.value) == pytest.approx(float(first.value), abs=1e-5)


@given(problems(), st.integers(-200, 200))
@settings(max_examples=40)
def test_scores_of_any_magnitude_are_solved_as_well(problem, power):
    tiny_or_huge = problem.with_scores(torch.ldexp(problem.scores, torch.tensor(power)))
    first, second = lpr.solve(problem), lpr.solve(tiny_or_huge)
    assert first.status is second.status
    assert float(second.value) == float(first.value) * 2.0**power


def test_the_kkt_checks_reject_what_is_wrong():
    problem = lpr.problems.capacity([[3, 1], [2, 1]], 1, 1)
    solution = lpr.solve(problem, "highs")
    x, prices = solution.assignment.x, solution.prices
    both_at_expert_0 = torch.tensor([[True, False], [True, False]])
    assert kkt.primal_feasibility(problem, both_at_expert_0) == 1
    assert kkt.primal_feasibility(problem, torch.tensor([[-1.0, 0], [0, 0]])) == 1
    forbidden = lpr.RoutingProblem([[1, -np.inf]])
    assert kkt.primal_feasibility(forbidden, torch.tensor([[True, True]])) == 1
    wrong_sign = lpr.Prices(experts=torch.tensor([-1.0, 0.0]).double())
    assert kkt.dual_sign(problem, wrong_sign) == 1
    nothing = torch.zeros(2, 2)
    assert kkt.complementarity(problem, nothing, prices) > 0.5
    swapped = torch.tensor([[False, True], [True, False]])
    assert kkt.stationarity(problem, swapped, prices) > 0.5
    assert kkt.stationarity(problem, x, lpr.Prices()) > 0.5


def test_only_solve_says_optimal_and_only_after_certifying():
    class Liar(lpr.solvers.Solver):
        def answer(self, problem, *, integral=False):
            from lp_routing.solvers import SolverResult, SolverStatus

            return SolverResult(SolverStatus.FINISHED, self.x, lpr.Prices(), said="Liar: optimal!")

    problem = lpr.problems.token_choice([[2, 1]], 1)
    liar = Liar()
    liar.x = np.array([[0.0, 1.0]])
    worse = lpr.solve(problem, liar)
    assert worse.status is lpr.Status.FEASIBLE
    assert worse.certificate.gap == 1
    liar.x = np.array([[1.0, 1.0]])
    broken = lpr.solve(problem, liar)
    assert broken.status is lpr.Status.FAILED
    assert "token_0 counts 2, at most 1" in broken.explanation
    liar.x = np.array([[1.0, 0.0]])
    assert lpr.solve(problem, liar).status is lpr.Status.OPTIMAL
    liar.x = None
    assert lpr.solve(problem, liar).status is lpr.Status.FAILED


def test_the_better_of_two_bounds_counts_and_says_whose_it_is():
    problem = lpr.problems.token_choice([[2, 1], [3, 0]], 1)
    by_prices = lpr.certify(problem, [[1, 0], [1, 0]], lpr.Prices())  # 5
    assert _with_search_bound(by_prices, 6.0, "S") == by_prices
    assert _with_search_bound(by_prices, None, "S") == by_prices
    better = _with_search_bound(by_prices, 4.5, "S")
    assert (better.bound, better.proof) == (4.5, "branch and bound (S)")


@pytest.mark.parametrize("solver", ["highs", "cvxpy"])
def test_a_demand_where_every_pair_is_forbidden_is_infeasible(solver):
    # Tokens demand nothing, but expert 1 does; and without that nothing is the best there is.
    never = torch.full((2, 2), -float("inf"))
    some = lpr.RoutingProblem(never, tokens=lpr.at_most(1), experts=lpr.at_least([0, 1]))
    assert lpr.solve(some, solver).status is lpr.Status.INFEASIBLE
    none = lpr.RoutingProblem(never, tokens=lpr.at_most(1), experts=lpr.at_most(1))
    assert (lpr.solve(none, solver).status, lpr.solve(none, solver).value) == (
        lpr.Status.OPTIMAL,
        0,
    )


def test_a_search_tells_its_bound_in_units_of_the_worths(monkeypatch):
    # One of two: 30 is better than 20. The search goes on to the last digit.
    asked = {}
    milp = scipy.optimize.milp

    def noted(*arguments, **options):
        asked.update(options["options"])
        return milp(*arguments, **options)

    monkeypatch.setattr(scipy.optimize, "milp", noted)
    ones, matrix = np.ones(2), scipy.sparse.csr_matrix([[1.0, 1.0]])
    limits = {"column_upper": ones, "whole": ones, "time_limit_s": 10}
    worth, upper = np.array([30.0, 20.0]), np.array([1.0])
    found = search(worth, matrix, np.array([-np.inf]), upper, **limits)
    assert (found.x.tolist(), found.bound) == ([1, 0], 30)
    assert asked == {"time_limit": 10, "mip_rel_gap": 0}


def test_a_false_claim_of_infeasibility_is_not_believed():
    class Pessimist(lpr.solvers.Solver):
        def answer(self, problem, *, integral=False):
            from lp_routing.solvers import SolverResult, SolverStatus

            return SolverResult(SolverStatus.INFEASIBLE, None, None, said="Pessimist: no way")

    solution = lpr.solve(lpr.problems.token_choice([[2, 1]], 1), Pessimist())
    assert solution.status is lpr.Status.FAILED
    assert "no way" in solution.explanation


OUTLIER = torch.tensor([[0.096], [-1e9], [-0.46], [0.34], [-1.45]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("problem", "value"),
    [
        (lpr.RoutingProblem(OUTLIER), 0.436),
        (lpr.problems.expert_choice(OUTLIER, 2), 0.436),
        (lpr.problems.unified(OUTLIER, 3), -0.024),
        (lpr.RoutingProblem(OUTLIER, total=lpr.between(2, 4)), 0.436),
        (lpr.RoutingProblem(OUTLIER, experts=lpr.exactly(5)), float(OUTLIER.sum())),
    ],
)
def test_a_huge_score_does_not_make_clarabel_claim_what_is_not_so(problem, value):
    solution = lpr.solve(problem, lpr.CVXPY("CLARABEL"))
    assert solution.status is lpr.Status.OPTIMAL, solution.explanation
    assert float(solution.value) == pytest.approx(value, rel=1e-12)


def test_what_cvxpy_claims_is_asked_again_unless_it_is_proved(monkeypatch):
    asked = []
    once = lpr.CVXPY._asked

    def counted(self, problem):
        asked.append(problem.score_scale)
        return once(self, problem)

    monkeypatch.setattr(lpr.CVXPY, "_asked", counted)
    tight = lpr.problems.token_choice(OUTLIER, 1).with_families(
        lpr.RoutingProblem(OUTLIER, tokens=lpr.exactly(1), experts=lpr.at_most(3)).families
    )
    assert lpr.solve(tight, lpr.CVXPY("HIGHS")).status is lpr.Status.INFEASIBLE
    assert len(asked) == 1
    asked.clear()
    lpr.solve(lpr.RoutingProblem(OUTLIER), lpr.CVXPY("CLARABEL"))
    assert len(asked) == 2
    assert 2**27 <= asked[1] < 2**28 < asked[0]


def test_a_false_claim_that_stays_is_a_failure_not_an_answer(monkeypatch):
    claimed = lpr.solvers.SolverResult(lpr.solvers.SolverStatus.INFEASIBLE, None, None)
    monkeypatch.setattr(lpr.CVXPY, "_asked", lambda self, problem: (claimed, "infeasible"))
    solution = lpr.solve(lpr.RoutingProblem(OUTLIER), lpr.CVXPY())
    assert solution.status is lpr.Status.FAILED
    assert solution.infeasibility is None
