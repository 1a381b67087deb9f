"""Certify Mixture-of-Experts routers against the exact optimum of their assignment problem.

Axis letters, in every docstring, einsum and name:

    T tokens        E experts       K experts chosen per token      C capacity of an expert
    N pairs in all  L layers        G groups (sequences, devices)
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lp_routing import (
        audits,
        certificate,
        claims,
        evaluation,
        extensions,
        frontier,
        monitor,
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
    from lp_routing.problem.named import capacity
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
    "capacity",
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
    "monitor",
    "problems",
    "routers",
    "scores",
    "solve",
    "solvers",
    "ties",
    "token_prices",
    "traces",
]

_HOME = {
    "lp_routing.certificate": ("Certificate", "Prices", "certify", "dual_bound", "token_prices"),
    "lp_routing.certificate.ties": ("ties",),
    "lp_routing.errors": ("InputError",),
    "lp_routing.evaluation.compare": ("compare",),
    "lp_routing.problem.assignment": ("Assignment",),
    "lp_routing.problem.bounds": ("at_least", "at_most", "between", "exactly"),
    "lp_routing.problem.constraints": ("Group", "groups_by"),
    "lp_routing.problem.named": ("capacity",),
    "lp_routing.problem.problem": ("RoutingProblem",),
    "lp_routing.solvers": ("CVXPY", "HiGHS", "MinCostFlow", "Pricing"),
    "lp_routing.solvers.linear_program": ("linear_program",),
    "lp_routing.solvers.solve": ("Solution", "Status", "solve"),
}
"""Module -> the names that it gives this one; imported when they are asked for, as torch takes
seconds. The other names of `__all__` are modules."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'lp_routing' has no attribute {name!r}")
    home = next((module for module, names in _HOME.items() if name in names), None)
    if home is not None:
        found = getattr(import_module(home), name)
    else:
        found = import_module(f"lp_routing.{'problem.named' if name == 'problems' else name}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__version__ = "0.2.0"
