"""`solve`, the entry point to the solvers: it asks, checks the answer itself, names the status."""

import math
import time
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lp_routing.certificate.certificate import Certificate, certify, dual_bound
from lp_routing.certificate.exact_arithmetic import Number
from lp_routing.certificate.prices import Prices, clipped, from_table
from lp_routing.certificate.ties import token_prices
from lp_routing.certificate.violations import amounts_counted, violations_of
from lp_routing.display import as_html, as_text
from lp_routing.errors import InputError
from lp_routing.problem.assignment import Assignment
from lp_routing.problem.problem import RoutingProblem, check_problem
from lp_routing.solvers import BY_NAME, HiGHS, MinCostFlow, Solver, SolverResult, SolverStatus
from lp_routing.solvers.infeasibility import Infeasibility, explain
from lp_routing.solvers.min_cost_flow import feasible_assignment
from lp_routing.solvers.min_cost_flow.solver import MOST_EXPERTS
from lp_routing.validation import as_bool, as_share

if TYPE_CHECKING:
    import pandas


class Status(Enum):
    """How a solve ended; the value says what it means and what to do."""

    OPTIMAL = "The assignment is feasible and no other is worth more; the certificate proves it."
    FEASIBLE = (
        "The assignment is feasible; its certificate leaves a gap, so it may not be the best one. "
        "Use another solver, or tighter options."
    )
    TIME_LIMIT = (
        "The time limit came first: the best assignment and the best bound so far are given. "
        "Allow more time_limit_s."
    )
    INFEASIBLE = "No assignment satisfies all bounds; `explanation` names demands that clash."
    FAILED = (
        "The solver gave no assignment that satisfies the bounds; `explanation` has its own words. "
        "Use another solver, or rescale the scores."
    )


@dataclass(frozen=True, eq=False)
class Solution:
    """The answer of `solve`.

    Attributes:
        problem: what was asked.
        solver: who answered.
        status: how it ended; only `solve` says OPTIMAL, after certifying.
        assignment: who goes where; None where no assignment is known.
        prices: shadow prices; all zero, `Prices()`, where the solver gives none.
        certificate: what the assignment is worth and how good it is; None without an assignment.
        bound: no assignment is worth more; -inf where none exists.
        infeasibility: the proof that none exists; None unless INFEASIBLE. None too where only
            whole-number assignments do not exist: HiGHS's search is the proof then.
        explanation: in words: why it is infeasible or failed; empty where all is well.
        seconds: wall time of solver and certificate together.
    """

    problem: RoutingProblem
    solver: str
    status: Status
    assignment: Assignment | None
    prices: Prices
    certificate: Certificate | None
    bound: Number
    infeasibility: Infeasibility | None
    explanation: str
    seconds: float

    @property
    def value(self) -> Number:
        """The assignment's total score; -inf (the best of nothing) where there is no assignment."""
        return float("-inf") if self.certificate is None else self.certificate.value

    def to_frame(self) -> "pandas.DataFrame":
        """The constraints, one a row: kind, name, bounds, what is taken of them, and their price.

        Without an assignment "taken" is NaN, "price" is zero where there are none.

        Example:
            >>> solution = lpr.solve(lpr.problems.capacity([[3, 1], [2, 1]], k=1, capacity=1))
            >>> solution
            Solution(gap=0, value=4, status=OPTIMAL, solver=MinCostFlow)
            >>> list(solution.to_frame())
            ['kind', 'name', 'lower', 'upper', 'taken', 'price']
        """
        frame = self.problem.to_frame()
        frame["taken"] = math.nan
        if self.assignment is not None:
            counted = amounts_counted(self.problem, self.assignment.amounts)
            frame["taken"] = [amount for each in counted for amount in each.tolist()]
        table = clipped(self.problem, self.prices)
        table["token"] = token_prices(self.problem, self.prices)
        families = self.problem.families
        frame["price"] = [price for f in families for price in table[f.kind].tolist()]
        return frame

    def _shown(self) -> dict[str, object]:
        return {
            "gap": None if self.certificate is None else self.certificate.gap,
            "value": None if self.certificate is None else self.value,
            "status": self.status,
            "solver": self.solver,
            "explanation": self.explanation or None,
        }

    __repr__ = as_text
    _repr_html_ = as_html


Amounts = np.ndarray[Any, np.dtype[np.float64]]

NEARLY_WHOLE = 1e-6
"""Pairs: amounts this close to whole numbers are rounded, and the rounded ones are certified.

Interior-point methods end within some 1e-8; a larger tolerance would round amounts that are
fractional. A wrong rounding cannot pass: the certificate is of what is returned.
"""


def solve(
    problem: RoutingProblem,
    solver: Solver | str | None = None,
    *,
    integral: bool = False,
    tolerance: float | None = None,
) -> Solution:
    """The best assignment of a problem, with its proof.

    Args:
        problem: what to solve.
        solver: `MinCostFlow()`, `HiGHS()`, `CVXPY()`, or their names with default options. Left
            out, `MinCostFlow()` where the problem is a flow (`is_integral`), else `HiGHS()`.
        integral: ask for whole amounts. Fractional bounds are rounded inwards; where the LP's
            optimum is still fractional, HiGHS branches and bounds.
        tolerance: relative gap and violation up to which an answer counts as optimal; the
            solver's own where left out (`MinCostFlow` 1e-12, HiGHS 1e-9, CVXPY 1e-6).

    Returns:
        A `Solution`; OPTIMAL means that its certificate was evaluated here and holds.

    Raises:
        InputError: not a problem, an unknown solver, `integral` where the solver cannot, a
            tolerance of 1 or more.

    Example:
        >>> problem = lpr.problems.capacity([[3, 1], [2, 1]], k=1, capacity=1)
        >>> solution = lpr.solve(problem)
        >>> solution
        Solution(gap=0, value=4, status=OPTIMAL, solver=MinCostFlow)
        >>> solution.assignment.x.tolist()
        [[True, False], [False, True]]
        >>> lpr.solve(problem, lpr.HiGHS()).value
        4.0
    """
    check_problem(problem, "solve")
    began = time.perf_counter()
    integral, asked = as_bool(integral, "solve: integral"), problem
    if integral and not problem.is_integral:
        problem = problem.with_whole_bounds()
    solver = exact_solver(problem) if solver is None else _solver(solver)
    tolerance = solver.tolerance if tolerance is None else tolerance
    tolerance = as_share(tolerance, "solve: tolerance")
    answer = _answer(problem, solver, integral)
    return replace(_judged(problem, solver, answer, tolerance, began), problem=asked)


def exact_solver(problem: RoutingProblem, seed: int = 0) -> Solver:
    """`MinCostFlow` where the LP has whole optima (and it can count the experts), else HiGHS."""
    flow = problem.is_integral and problem.E <= MOST_EXPERTS
    return MinCostFlow(seed=seed) if flow else HiGHS()


def _solver(solver: Solver | str) -> Solver:
    if isinstance(solver, Solver):
        return solver
    if isinstance(solver, str) and solver.lower() in BY_NAME:
        return BY_NAME[solver.lower()]()
    raise InputError(
        f"unknown solver {solver!r}: give a Solver such as HiGHS(), or one of {', '.join(BY_NAME)}."
    )


def _answer(problem: RoutingProblem, solver: Solver, integral: bool) -> SolverResult:
    """Ask the solver, with scores scaled by a power of two if its tolerances are absolute."""
    if solver.own_scale:
        return solver.answer(problem, integral=integral)
    if not bool(problem.allowed_per_token.any()):
        return _nothing_allowed(problem)
    answer = solver.answer_near_one(problem)
    fractional = isinstance(answer.x, np.ndarray) and not _is_nearly_whole(answer.x)
    if integral and fractional:  # groups that cross, or an optimum between vertices
        searched = solver.answer_near_one(problem, integral=True)
        answer = replace(searched, prices=answer.prices)
    return answer


def _nothing_allowed(problem: RoutingProblem) -> SolverResult:
    """Every pair is forbidden: no column is left to ask a solver about."""
    demanded = any(bool(((f.lower > 0) | (f.upper < 0)).any()) for f in problem.families)
    outcome = SolverStatus.INFEASIBLE if demanded else SolverStatus.FINISHED
    x = np.zeros((problem.T, problem.E))
    return SolverResult(outcome, x, from_table(problem, {}), said="every pair is forbidden")


def _judged(
    problem: RoutingProblem, solver: Solver, answer: SolverResult, tolerance: float, began: float
) -> Solution:
    """Certify an answer and name its status."""
    prices, assignment, certificate = answer.prices or Prices(), None, None
    infeasible, group = answer.outcome is SolverStatus.INFEASIBLE, solver.processes.group
    infeasibility = explain(problem, solver.processes) if infeasible else None
    if infeasibility is None:
        prices, assignment = _best_so_far(problem, answer, group)
    if assignment is not None:
        certificate = certify(problem, assignment, prices, group=group)
        certificate = _with_search_bound(certificate, answer.bound, solver.name)
    status = _status(answer, infeasibility, certificate, tolerance)
    bound: Number = -math.inf
    if certificate is not None:
        bound = certificate.bound
    elif status is not Status.INFEASIBLE:
        bound = dual_bound(problem, prices, group=group)
    return Solution(
        problem=problem,
        solver=solver.name,
        status=status,
        assignment=assignment,
        prices=prices,
        certificate=certificate,
        bound=bound,
        infeasibility=infeasibility,
        explanation=_explanation(status, answer, infeasibility, certificate),
        seconds=time.perf_counter() - began,
    )


def _status(
    answer: SolverResult,
    infeasibility: Infeasibility | None,
    certificate: Certificate | None,
    tolerance: float,
) -> Status:
    if infeasibility is not None or _no_whole_assignment(answer):
        return Status.INFEASIBLE
    if certificate is not None and certificate.proves_optimal(tolerance):
        return Status.OPTIMAL
    if answer.outcome is SolverStatus.TIME_LIMIT:
        return Status.TIME_LIMIT
    if certificate is not None and certificate.keeps_bounds(tolerance):
        return Status.FEASIBLE
    return Status.FAILED


def _no_whole_assignment(answer: SolverResult) -> bool:
    """Branch and bound found the problem infeasible; its search is the only proof there is."""
    return answer.outcome is SolverStatus.INFEASIBLE and answer.bound is not None


def _best_so_far(
    problem: RoutingProblem, answer: SolverResult, group: Any
) -> tuple[Prices, Assignment | None]:
    """The solver's prices and amounts; when an LP was stopped early, better ones if there are any.

    `MinCostFlow` gives a feasible assignment itself, on a group of processes too.
    """
    prices = answer.prices or Prices()
    found = [] if answer.x is None else [_made_whole(problem, answer.x)]
    given = isinstance(answer.x, Tensor)
    if answer.outcome is SolverStatus.TIME_LIMIT and group is None and not given:
        prices = min(prices, Prices(), key=lambda candidate: dual_bound(problem, candidate))
        quick = _feasible_near(problem, prices)
        found += [] if quick is None else [quick]
        found.sort(key=lambda x: _worth(problem, x), reverse=True)
    if not found:
        return prices, None
    return prices, Assignment(found[0].to(problem.scores.device))


def _feasible_near(problem: RoutingProblem, prices: Prices) -> Tensor | None:
    """Whole amounts within all bounds, near some prices; None where none are found.

    Bounds that are fractions are rounded inwards; where groups cross, nothing is tried.
    """
    if not problem.is_integral:
        try:
            problem = problem.with_whole_bounds()
        except InputError:  # no whole number lies between two bounds
            return None
    return feasible_assignment(problem, prices) if problem.is_integral else None


def _worth(problem: RoutingProblem, x: Tensor) -> tuple[float, float]:
    """Feasible assignments before others, then by value."""
    certificate = certify(problem, Assignment(x), Prices())
    return -certificate.violation, float(certificate.value)


def _made_whole(problem: RoutingProblem, x: Amounts | Tensor) -> Tensor:
    """Boolean where all amounts are nearly 0 or 1, whole where nearly whole, else unchanged.

    Unchanged too where rounding breaks a bound, which may itself be a fraction.
    """
    if isinstance(x, Tensor):
        return x
    if not _is_nearly_whole(x):
        return torch.as_tensor(x)
    rounded = np.rint(x)
    whole = torch.as_tensor(rounded.astype(bool if rounded.max() <= 1 else np.int64))
    if problem.is_integral or not violations_of(problem, whole)[1]:
        return whole
    return torch.as_tensor(x)


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
    answer: SolverResult,
    infeasibility: Infeasibility | None,
    certificate: Certificate | None,
) -> str:
    if infeasibility is not None:
        return infeasibility.says
    if status is Status.INFEASIBLE:
        return f"No whole-number assignment exists, though fractional ones do ({answer.said})."
    if status is Status.OPTIMAL:
        return ""
    broken = certificate.violations[:1] if certificate else ()
    return "; ".join(filter(None, [answer.said, *(violation.says for violation in broken)]))
