"""Exact solvers, one method a file, all behind `lp_routing.solve`."""

from lp_routing.solvers.base import Solver, SolverResult, SolverStatus
from lp_routing.solvers.cvxpy import CVXPY, cvxpy_model
from lp_routing.solvers.highs import HiGHS
from lp_routing.solvers.infeasibility import Infeasibility
from lp_routing.solvers.linear_program import LinearProgram
from lp_routing.solvers.min_cost_flow import MinCostFlow
from lp_routing.solvers.pricing import Pricing
from lp_routing.solvers.writing import write

BY_NAME: dict[str, type[Solver]] = {
    "cvxpy": CVXPY,
    "highs": HiGHS,
    "min_cost_flow": MinCostFlow,
    "mincostflow": MinCostFlow,
    "pricing": Pricing,
}
"""Solvers that `solve` accepts by name, in any case, with their default options."""

__all__ = [
    "BY_NAME",
    "CVXPY",
    "HiGHS",
    "Infeasibility",
    "LinearProgram",
    "MinCostFlow",
    "Pricing",
    "Solver",
    "SolverResult",
    "SolverStatus",
    "cvxpy_model",
    "write",
]


def __getattr__(name: str) -> object:
    if name == "write_mps":
        raise AttributeError(
            "lp_routing.solvers.write_mps is now write(problem, path); the ending of the path says "
            "how: .lp, .mps or .mps.gz."
        )
    raise AttributeError(f"module 'lp_routing.solvers' has no attribute {name!r}")
