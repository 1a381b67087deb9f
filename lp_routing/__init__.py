"""Certify Mixture-of-Experts routers against the exact optimum of their assignment problem.

Axis letters, in every docstring, einsum and name:

    T tokens        E experts       K experts chosen per token      C capacity of an expert
    N pairs in all  L layers        G groups (sequences, devices)
"""

from lp_routing import audits, claims, extensions, frontier, routers, scores, traces
from lp_routing.certificate.certificate import Certificate, certify, dual_bound
from lp_routing.certificate.prices import Prices
from lp_routing.certificate.ties import ties, token_prices
from lp_routing.certificate.violations import Violation
from lp_routing.errors import InputError, OptionError
from lp_routing.evaluation.compare import Optimum, compare, comparisons
from lp_routing.pricing import Pricing, best_prices
from lp_routing.problem.assignment import Assignment
from lp_routing.problem.bounds import Bounds, at_least, at_most, between, exactly
from lp_routing.problem.constraints import Group, groups_by
from lp_routing.problem.named import (
    balanced,
    capacity,
    capped_expert_choice,
    expert_choice,
    served_unified,
    token_choice,
    unified,
)
from lp_routing.problem.problem import RoutingProblem
from lp_routing.process_group import GroupError
from lp_routing.solvers import CVXPY, HiGHS, SciPy, Solver
from lp_routing.solvers.cvxpy import cvxpy_model
from lp_routing.solvers.highs import write_mps
from lp_routing.solvers.infeasibility import Infeasibility
from lp_routing.solvers.linear_program import LinearProgram, linear_program
from lp_routing.solvers.solve import Solution, Status, solve

__all__ = [
    "CVXPY",
    "Assignment",
    "Bounds",
    "Certificate",
    "Group",
    "GroupError",
    "HiGHS",
    "Infeasibility",
    "InputError",
    "LinearProgram",
    "Optimum",
    "OptionError",
    "Prices",
    "Pricing",
    "RoutingProblem",
    "SciPy",
    "Solution",
    "Solver",
    "Status",
    "Violation",
    "at_least",
    "at_most",
    "audits",
    "balanced",
    "best_prices",
    "between",
    "capacity",
    "capped_expert_choice",
    "certify",
    "claims",
    "compare",
    "comparisons",
    "cvxpy_model",
    "dual_bound",
    "exactly",
    "expert_choice",
    "extensions",
    "frontier",
    "groups_by",
    "linear_program",
    "routers",
    "scores",
    "served_unified",
    "solve",
    "ties",
    "token_choice",
    "token_prices",
    "traces",
    "unified",
    "write_mps",
]

__version__ = "0.1.0"
