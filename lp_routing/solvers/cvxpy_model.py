"""The routing problem in CVXPY, line by line as one writes it on paper."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lp_routing.problem.constraints import Family
from lp_routing.problem.problem import RoutingProblem

if TYPE_CHECKING:
    import cvxpy as cp


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
    """State a problem in CVXPY, to read, to change, or to solve with any of its solvers."""
    import cvxpy as cp  # it takes a second to import, so only who asks for it pays

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
        if (low > 0).any():
            lower[family.kind] = activity >= low
        if np.isfinite(high).any():
            upper[family.kind] = activity[np.isfinite(high)] <= high[np.isfinite(high)]

    constraints += [*lower.values(), *upper.values(), *equal.values()]
    return CvxpyModel(cp.Problem(objective, constraints), x, lower, upper, equal)


def _activity(family: Family, x: "cp.Variable") -> Any:
    """What each constraint of a family counts, as a CVXPY expression (R,)."""
    import cvxpy as cp

    if family.kind == "total":
        return cp.reshape(cp.sum(x), (1,), order="C")
    per_token_or_expert = cp.sum(x, axis=1 if family.kind.startswith("token") else 0)
    if family.members is None:
        return per_token_or_expert
    return family.members.cpu().numpy().astype(float) @ per_token_or_expert
