"""Certify Mixture-of-Experts routers against the exact optimum of their assignment problem.

Axis letters, in every docstring, einsum and name:

    T tokens        E experts       K experts chosen per token      C capacity of an expert
    N pairs in all  L layers        G groups (sequences, devices)
"""

from lp_routing import (
    audits,
    certificate,
    claims,
    evaluation,
    extensions,
    frontier,
    routers,
    scores,
    solvers,
    traces,
)
from lp_routing.certificate import Certificate, Prices, certify, dual_bound, token_prices
from lp_routing.certificate.ties import ties
from lp_routing.errors import InputError
from lp_routing.evaluation.compare import compare
from lp_routing.problem import named as problems
from lp_routing.problem.assignment import Assignment
from lp_routing.problem.bounds import at_least, at_most, between, exactly
from lp_routing.problem.constraints import Group, groups_by
from lp_routing.problem.problem import RoutingProblem
from lp_routing.solvers import CVXPY, HiGHS, MinCostFlow, Pricing
from lp_routing.solvers.linear_program import linear_program
from lp_routing.solvers.solve import Solution, Status, solve

__all__ = [
    "CVXPY",
    "Assignment",
    "Certificate",
    "Group",
    "HiGHS",
    "InputError",
    "MinCostFlow",
    "Prices",
    "Pricing",
    "RoutingProblem",
    "Solution",
    "Status",
    "at_least",
    "at_most",
    "audits",
    "between",
    "certificate",
    "certify",
    "claims",
    "compare",
    "dual_bound",
    "evaluation",
    "exactly",
    "extensions",
    "frontier",
    "groups_by",
    "linear_program",
    "problems",
    "routers",
    "scores",
    "solve",
    "solvers",
    "ties",
    "token_prices",
    "traces",
]


def __getattr__(name: str) -> object:
    if name == "best_prices":
        raise AttributeError(
            "lp_routing.best_prices is gone: lp_routing.solve(problem).prices are optimal prices."
        )
    raise AttributeError(f"module 'lp_routing' has no attribute {name!r}")


__version__ = "0.1.0"
