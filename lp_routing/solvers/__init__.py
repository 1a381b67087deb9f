"""Exact solvers, one method a file, all behind `lp_routing.solve`."""

from lp_routing.solvers.base import Solver, SolverResult, SolverStatus
from lp_routing.solvers.cvxpy import CVXPY
from lp_routing.solvers.highs import HiGHS
from lp_routing.solvers.scipy import SciPy

BY_NAME: dict[str, type[Solver]] = {"highs": HiGHS, "cvxpy": CVXPY, "scipy": SciPy}
"""Solvers that `solve` accepts by name, with their default options."""

__all__ = ["BY_NAME", "CVXPY", "HiGHS", "SciPy", "Solver", "SolverResult", "SolverStatus"]
