"""CVXPY: an independent check, by default by an interior-point method (Clarabel).

`cvxpy_model` states the problem as it is written on paper.
"""

import math
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lp_routing.certificate.prices import Prices, from_table
from lp_routing.errors import InputError, OptionError
from lp_routing.problem.constraints import Family
from lp_routing.problem.problem import RoutingProblem, check_problem
from lp_routing.solvers.base import (
    Solver,
    SolverResult,
    SolverStatus,
    check_time_limit,
    refuse_unknown,
)
from lp_routing.solvers.highs import LP_DEFAULTS, option_names
from lp_routing.solvers.infeasibility import explain

if TYPE_CHECKING:
    import cvxpy as cp


LARGEST_SCORE_POWERS = (28, 0)
"""Powers of 2 to which the largest |score| is scaled, in turn, where a backend's claim is wrong.

Clarabel claims "unbounded" from about 2**31 on; the lower the power, the more small scores fall
below its tolerance of 1e-8. Of 392 small problems with one score of 1e9 to 1e12, plain Clarabel
proves 134 optima, at 2**28 it proves 373, at 2**20 303 and at 1 220; at 2**28 none fails.
"""


@dataclass(frozen=True, eq=False)
class CvxpyModel:
    """A CVXPY problem and its parts.

    Attributes:
        problem: maximise sum(scores * x).
        x: (T, E) variable.
        lower: for each kind of constraint, `activity >= lower` (absent where all bounds are 0).
        upper: for each kind, `activity <= upper` (absent where none is finite).
        equal: for each kind, `activity == bound`, where lower and upper agree everywhere.
    """

    problem: "cp.Problem"
    x: "cp.Variable"
    lower: dict[str, Any]
    upper: dict[str, Any]
    equal: dict[str, Any]


def cvxpy_model(problem: RoutingProblem) -> CvxpyModel:
    """State a problem in CVXPY, to read, to change, or to solve with any of its solvers.

    Example:
        >>> problem = lpr.RoutingProblem([[3, 1], [2, 1]], tokens=lpr.at_most(1))
        >>> model = lpr.solvers.cvxpy_model(problem)
        >>> round(float(model.problem.solve(solver="CLARABEL")), 3)
        5.0
    """
    check_problem(problem, "cvxpy_model")
    import cvxpy as cp  # lazy, as the import takes a second

    scores = problem.scores.double().cpu().numpy()
    allowed = scores > -np.inf
    copies = problem.copies().cpu().numpy()[:, None]

    x = cp.Variable((problem.T, problem.E), name="x")
    objective = cp.Maximize(cp.sum(cp.multiply(np.where(allowed, scores, 0), x)))
    constraints = [x >= 0, x <= copies * allowed]

    lower: dict[str, Any] = {}
    upper: dict[str, Any] = {}
    equal: dict[str, Any] = {}
    for family in problem.families:
        activity = _activity(family, x)
        low, high = family.lower.cpu().numpy(), family.upper.cpu().numpy()
        if (low == high).all():
            equal[family.kind] = activity == low
            continue
        below, above = _rows_with_bounds(family)
        if below.any():
            lower[family.kind] = activity[below] >= low[below]
        if above.any():
            upper[family.kind] = activity[above] <= high[above]

    constraints += [*lower.values(), *upper.values(), *equal.values()]
    return CvxpyModel(cp.Problem(objective, constraints), x, lower, upper, equal)


def _rows_with_bounds(family: Family) -> tuple[Any, Any]:
    """Rows with a lower bound that can bind, and rows with an upper bound, boolean (R,) each."""
    return family.demands.cpu().numpy(), family.upper.isfinite().cpu().numpy()


def _activity(family: Family, x: "cp.Variable") -> Any:
    """What each constraint of a family counts, as a CVXPY expression (R,)."""
    import cvxpy as cp

    if family.weights is not None:
        return family.weights.matrix() @ cp.vec(x, order="C")
    if family.kind == "total":
        return cp.reshape(cp.sum(x), (1,), order="C")
    per_token_or_expert = cp.sum(x, axis=1 if family.kind.startswith("token") else 0)
    if family.members is None:
        return per_token_or_expert
    return family.members.cpu().numpy().astype(float) @ per_token_or_expert


class CVXPY(Solver):
    """Any LP solver that CVXPY reaches.

    Args:
        backend: "CLARABEL" (interior point, shares nothing with the simplex method), "HIGHS", or
            another LP solver that CVXPY lists as installed.
        time_limit_s: for CLARABEL and HIGHS; CLARABEL checks it between iterations, and the time in
            which CVXPY builds the model is not counted.
        options: the backend's own options, for CLARABEL and HIGHS, where they can be checked.

    Raises:
        OptionError: a backend that is not installed, an unknown option.
    """

    tolerance = 1e-6
    """Interior-point methods stop some 1e-8 short of the optimum, first-order methods earlier."""

    def __init__(
        self, backend: str = "CLARABEL", *, time_limit_s: float | None = None, **options: Any
    ) -> None:
        import cvxpy as cp

        check_time_limit("CVXPY", time_limit_s)
        self.backend = str(backend).upper()
        self.time_limit_s = time_limit_s
        self.options = options
        if self.backend not in cp.installed_solvers():
            raise OptionError(
                f"CVXPY(backend={backend!r}): not among the installed solvers "
                f"({', '.join(cp.installed_solvers())})."
            )
        known = _known_options(self.backend)
        if known is None and (options or time_limit_s is not None):
            raise OptionError(
                f"CVXPY(backend={backend!r}): options are for CLARABEL and HIGHS only."
            )
        refuse_unknown(f"CVXPY({self.backend})", options, known or ())

    @property
    def name(self) -> str:
        """`CVXPY (CLARABEL)`."""
        return f"CVXPY ({self.backend})"

    def answer(self, problem: RoutingProblem, *, integral: bool = False) -> SolverResult:
        """Solve the LP with the chosen backend; repeat with scaled scores where its claim is wrong.

        No routing problem is unbounded, and an infeasible one has a proof (`explain`). With one
        score of -1e9 beside scores near 1 Clarabel claims either; with scaled scores it solves the
        problem.
        """
        if integral:
            raise InputError(f"{self.name} solves the LP; for whole numbers use HiGHS().")
        answer, claims = self._asked(problem)
        if claims == "infeasible" and explain(problem) is not None:
            return answer
        for power in LARGEST_SCORE_POWERS:
            if not claims or not problem.score_scale:
                break
            shift = power - math.frexp(problem.score_scale)[1]
            scaled = torch.ldexp(problem.scores.double(), torch.tensor(shift))
            again, claims = self._asked(problem.with_scores(scaled))
            if not claims:
                prices = None if again.prices is None else again.prices.times(2.0**-shift)
                answer = replace(again, prices=prices)
        return answer

    def _asked(self, problem: RoutingProblem) -> tuple[SolverResult, str]:
        """The backend's answer, and its claim: "infeasible", "unbounded", "failure", else ""."""
        import cvxpy as cp

        model = cvxpy_model(problem)
        limit = {} if self.time_limit_s is None else {"time_limit": self.time_limit_s}
        defaults = LP_DEFAULTS if self.backend == "HIGHS" else {}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # "may be inaccurate": the certificate measures it
                model.problem.solve(solver=self.backend, **(defaults | limit | self.options))
        except (TypeError, ValueError) as error:
            raise OptionError(f"{self.name} refuses its options {self.options}: {error}") from error
        except cp.SolverError as error:
            said = f"{self.name}: {error}"
            return SolverResult(SolverStatus.FAILED, None, None, said=said), "failure"
        status = str(model.problem.status)
        outcome = _OUTCOMES.get(status, SolverStatus.FAILED)
        x = None if model.x.value is None else np.asarray(model.x.value, dtype=float)
        result = SolverResult(
            outcome=outcome,
            x=x,
            prices=None if x is None else _prices(problem, model),
            said=f"{self.name}: {status}",
        )
        claims = [word for word in ("unbounded", "infeasible") if word in status]
        return result, claims[-1] if claims else ""


_OUTCOMES = {
    "optimal": SolverStatus.FINISHED,
    "optimal_inaccurate": SolverStatus.FINISHED,
    "infeasible": SolverStatus.INFEASIBLE,
    "infeasible_inaccurate": SolverStatus.INFEASIBLE,
    "infeasible_or_unbounded": SolverStatus.INFEASIBLE,
    "user_limit": SolverStatus.TIME_LIMIT,
}


def _prices(problem: RoutingProblem, model: "CvxpyModel") -> Prices | None:
    """Duals of the model's constraints as prices: positive for `<=`, negative for `>=`."""
    table: dict[str, Any] = {}
    for family in problem.families:
        values = np.zeros(len(family))
        below, above = _rows_with_bounds(family)
        everywhere = np.ones(len(family), dtype=bool)
        sides = ((model.equal, 1, everywhere), (model.lower, -1, below), (model.upper, 1, above))
        for constraints, sign, rows in sides:
            constraint = constraints.get(family.kind)
            if constraint is None:
                continue
            if constraint.dual_value is None:
                return None
            values[rows] += sign * np.asarray(constraint.dual_value)
        table[family.kind] = values
    return from_table(problem, table)


def _known_options(backend: str) -> list[str] | None:
    """The names of a backend's options, or None where they are unknown."""
    if backend == "CLARABEL":
        import clarabel

        return [name for name in dir(clarabel.DefaultSettings()) if not name.startswith("_")]
    if backend == "HIGHS":
        return [*option_names(), "highs_options"]
    return None
