"""SciPy's `linprog`: the same LP through another interface, for whoever has nothing else."""

import warnings
from typing import Any

import numpy as np
import scipy.sparse as sp

from lp_routing.errors import InputError, OptionError
from lp_routing.problem.problem import RoutingProblem
from lp_routing.solvers.base import (
    Solver,
    SolverResult,
    SolverStatus,
    check_time_limit,
    refuse_unknown,
)
from lp_routing.solvers.linear_program import LinearProgram, linear_program

OPTIONS = (
    "dual_feasibility_tolerance",
    "ipm_optimality_tolerance",
    "maxiter",
    "presolve",
    "primal_feasibility_tolerance",
    "simplex_dual_edge_weight_strategy",
)
DEFAULTS: dict[str, Any] = {
    "presolve": False,
    "primal_feasibility_tolerance": 1e-10,
    "dual_feasibility_tolerance": 1e-10,
}
"""As in `HiGHS`, and for the same reasons."""
_OUTCOMES = {0: SolverStatus.FINISHED, 1: SolverStatus.TIME_LIMIT, 2: SolverStatus.INFEASIBLE}


class SciPy(Solver):
    """`scipy.optimize.linprog`.

    Args:
        method: "highs-ds" (dual simplex), "highs-ipm", or "highs" (it chooses).
        time_limit_s: stop after this many seconds.
        options: of `linprog`'s HiGHS methods.

    Raises:
        OptionError: an unknown method or option.
    """

    def __init__(
        self, method: str = "highs-ds", *, time_limit_s: float | None = None, **options: Any
    ) -> None:
        if method not in ("highs-ds", "highs-ipm", "highs"):
            raise OptionError(f"SciPy(method={method!r}): choose highs-ds, highs-ipm or highs.")
        check_time_limit("SciPy", time_limit_s)
        refuse_unknown("SciPy", options, OPTIONS)
        self.method = method
        self.options: dict[str, Any] = DEFAULTS | options
        if time_limit_s is not None:
            self.options["time_limit"] = time_limit_s

    def answer(self, problem: RoutingProblem, *, integral: bool = False) -> SolverResult:
        """Solve the LP with `linprog`."""
        from scipy.optimize import linprog

        if integral:
            raise InputError("SciPy() solves the LP; for whole numbers use HiGHS().")
        program = linear_program(problem)
        equal, capped, floored = _row_kinds(program)
        inequalities = sp.vstack([program.matrix[capped], -program.matrix[floored]], format="csc")
        limits = np.concatenate([program.row_upper[capped], -program.row_lower[floored]])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a warning fears, the certificate measures
            result = _checked(
                linprog,
                -program.score,
                A_ub=inequalities,
                b_ub=limits,
                A_eq=program.matrix[equal],
                b_eq=program.row_upper[equal],
                bounds=np.column_stack([np.zeros_like(program.score), program.column_upper]),
                method=self.method,
                options=self.options,
            )
        duals = np.zeros(len(program.row_lower))
        if result.x is not None:
            duals[equal] = -result.eqlin.marginals
            duals[capped] -= result.ineqlin.marginals[: len(capped)]
            duals[floored] += result.ineqlin.marginals[len(capped) :]
        return SolverResult(
            outcome=_OUTCOMES.get(result.status, SolverStatus.FAILED),
            x=None if result.x is None else program.amounts(result.x),
            prices=None if result.x is None else program.prices(duals),
            said=f"SciPy: {result.message}",
        )


def _checked(solve: Any, *arguments: Any, **options: Any) -> Any:
    """Call the solver; what it says of a wrong option value becomes an `OptionError`."""
    try:
        return solve(*arguments, **options)
    except (TypeError, ValueError) as error:
        raise OptionError(f"SciPy refuses its options {options['options']}: {error}") from error


def _row_kinds(program: LinearProgram) -> tuple[Any, Any, Any]:
    """Indices of equality rows, and of the other rows with an upper and with a lower bound."""
    equal = program.row_lower == program.row_upper
    capped = ~equal & np.isfinite(program.row_upper)
    floored = ~equal & (program.row_lower > 0)
    return np.nonzero(equal)[0], np.nonzero(capped)[0], np.nonzero(floored)[0]
