"""The one door to the solvers: it asks, checks the answer itself, then names the status."""

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from lp_routing.assignment import Assignment
from lp_routing.certificate import Certificate, certify
from lp_routing.errors import InputError
from lp_routing.feasible import feasible_assignment
from lp_routing.infeasibility import Infeasibility, explain
from lp_routing.prices import Prices
from lp_routing.problem import RoutingProblem
from lp_routing.solution import Solution, Status
from lp_routing.solvers import BY_NAME, Answer, Outcome, Solver
from lp_routing.violations import as_amounts, violations_of

Amounts = np.ndarray[Any, np.dtype[np.float64]]

NEARLY_WHOLE = 1e-6
"""A solver's amounts this close to whole numbers are taken as whole, then certified as such."""


def solve(
    problem: RoutingProblem,
    solver: Solver | str = "highs",
    *,
    integral: bool = False,
    tolerance: float | None = None,
) -> Solution:
    """The best assignment of a problem, with its proof.

    Args:
        problem: what to solve.
        solver: `HiGHS()`, `CVXPY()`, `SciPy()`, or their names with default options.
        integral: ask for whole amounts. Where the LP is integral they come anyway; elsewhere
            fractional bounds are rounded inwards and, if still needed, HiGHS branches and bounds.
        tolerance: relative gap and violation up to which an answer counts as optimal; the
            solver's own where left out (HiGHS and SciPy 1e-9, CVXPY 1e-6).

    Returns:
        A `Solution`; OPTIMAL means that its certificate was evaluated here and holds.

    Raises:
        InputError: not a problem, an unknown solver, `integral` where the solver cannot.
    """
    if not isinstance(problem, RoutingProblem):
        raise InputError(
            f"solve expects a RoutingProblem first, got {type(problem).__name__}; "
            f"write RoutingProblem(scores, tokens=exactly(2), ...)."
        )
    solver = _solver(solver)
    tolerance = solver.tolerance if tolerance is None else tolerance
    began = time.perf_counter()
    if integral and not problem.is_integral:
        problem = problem.with_whole_bounds()
    answer = solver.answer(problem)
    if integral and not problem.is_integral and answer.outcome is not Outcome.INFEASIBLE:
        answer = _in_whole_numbers(problem, solver, answer)
    return _judged(problem, solver.name, answer, tolerance, began)


def _solver(solver: Solver | str) -> Solver:
    if isinstance(solver, Solver):
        return solver
    if isinstance(solver, str) and solver.lower() in BY_NAME:
        return BY_NAME[solver.lower()]()
    raise InputError(
        f"unknown solver {solver!r}: give a Solver such as HiGHS(), or one of "
        f"{', '.join(sorted(BY_NAME))}."
    )


def _in_whole_numbers(problem: RoutingProblem, solver: Solver, relaxed: Answer) -> Answer:
    """The MILP's answer with the LP's prices, unless the LP's vertex is whole already."""
    if relaxed.x is not None and _is_nearly_whole(relaxed.x):
        return relaxed
    answer = solver.answer(problem, integral=True)
    return replace(answer, prices=relaxed.prices)


def _judged(
    problem: RoutingProblem, solver: str, answer: Answer, tolerance: float, began: float
) -> Solution:
    """Certify an answer and name its status."""
    infeasibility = explain(problem) if answer.outcome is Outcome.INFEASIBLE else None
    prices = answer.prices or Prices()
    assignment = certificate = None
    if infeasibility is None:
        assignment = _assignment(problem, answer, prices)
    if assignment is not None:
        certificate = _with_search_bound(certify(problem, assignment, prices), answer.bound, solver)
    status = _status(answer, infeasibility, certificate, tolerance)
    return Solution(
        problem=problem,
        solver=solver,
        status=status,
        assignment=assignment,
        prices=answer.prices,
        certificate=certificate,
        infeasibility=infeasibility,
        explanation=_explanation(status, answer, infeasibility, certificate),
        seconds=time.perf_counter() - began,
    )


def _status(
    answer: Answer,
    infeasibility: Infeasibility | None,
    certificate: Certificate | None,
    tolerance: float,
) -> Status:
    if infeasibility is not None:
        return Status.INFEASIBLE
    if certificate is not None and certificate.proves_optimal(tolerance):
        return Status.OPTIMAL
    if answer.outcome is Outcome.TIME_LIMIT:
        return Status.TIME_LIMIT
    if certificate is not None and certificate.violation <= tolerance:
        return Status.FEASIBLE
    return Status.FAILED


def _assignment(problem: RoutingProblem, answer: Answer, prices: Prices) -> Assignment | None:
    """The solver's amounts, made whole where they nearly are; at a time limit, feasible ones."""
    x = None if answer.x is None else torch.as_tensor(_made_whole(answer.x))
    if answer.outcome is Outcome.TIME_LIMIT:
        broken = x is None or bool(violations_of(problem, as_amounts(problem, x)))
        x = feasible_assignment(problem, prices) if broken else x
    return None if x is None else Assignment(x.to(problem.scores.device))


def _made_whole(x: Amounts) -> Any:
    """Boolean where all amounts are nearly 0 or 1, whole where nearly whole, else unchanged."""
    if not _is_nearly_whole(x):
        return x
    whole = np.rint(x)
    return whole.astype(bool) if whole.max() <= 1 else whole.astype(np.int64)


def _is_nearly_whole(x: Amounts) -> bool:
    return bool(np.abs(x - np.rint(x)).max() <= NEARLY_WHOLE)


def _with_search_bound(
    certificate: Certificate, searched: float | None, solver: str
) -> Certificate:
    """The certificate with a branch-and-bound's own bound, where that is the better one."""
    if searched is None or not searched < certificate.bound:
        return certificate
    return replace(certificate, bound=searched, proof=f"branch and bound ({solver})")


def _explanation(
    status: Status,
    answer: Answer,
    infeasibility: Infeasibility | None,
    certificate: Certificate | None,
) -> str:
    if infeasibility is not None:
        return infeasibility.says
    if status is Status.OPTIMAL:
        return ""
    broken = (
        ""
        if not (certificate and certificate.violations)
        else (f"; {certificate.violations[0].says}")
    )
    return f"{answer.said}{broken}"
