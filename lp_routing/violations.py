"""Which constraints an assignment breaks, by name and by how much."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lp_routing.assignment import Assignment
from lp_routing.checks import as_tensor
from lp_routing.errors import InputError
from lp_routing.problem import RoutingProblem

ROUNDING = 1e-12
"""Sums of fractions off by this much, relative to the limit, are rounding and not reported."""


NAMED = 1000
"""How many broken constraints of a kind get a name: beyond that they are only counted."""


class Violation(NamedTuple):
    """One broken constraint: its name, by how many pairs it is broken, a sentence, the limit."""

    name: str
    amount: float
    says: str
    limit: float


def as_amounts(
    problem: RoutingProblem, assignment: Assignment | Tensor | np.ndarray[Any, Any]
) -> Tensor:
    """The (T, E) amounts of an assignment, on the device of the problem's scores.

    Raises:
        InputError: wrong shape, NaN or infinite amounts.
    """
    given = assignment.x if isinstance(assignment, Assignment) else assignment
    x = as_tensor(given, "assignment", "amounts (tokens x experts)")
    if x.shape != problem.scores.shape:
        raise InputError(
            f"assignment: expected amounts of shape {tuple(problem.scores.shape)} (tokens x "
            f"experts), got {tuple(x.shape)}; certify one layer or batch at a time."
        )
    if x.is_complex():
        raise InputError(f"assignment: expected real amounts, got {x.dtype}.")
    if x.is_floating_point() and not bool(x.isfinite().all()):
        i, j = (int(n) for n in (~x.isfinite()).nonzero()[0])
        raise InputError(f"assignment[{i}, {j}] is {float(x[i, j])}: amounts must be finite.")
    return x.detach().to(problem.scores.device)


def violations_of(problem: RoutingProblem, x: Tensor) -> tuple[tuple[Violation, ...], int]:
    """The constraints that amounts x (T, E) break, worst first, and how many there are in all.

    At most `NAMED` of each kind are named, the worst ones.
    """
    assignment = Assignment(x)
    noise = 0.0 if assignment.is_whole else ROUNDING
    found, count = _pairs(problem, x, noise)
    found = sorted(found, key=lambda violation: -violation.amount)[:NAMED]
    per_token, per_expert = assignment.experts_per_token, assignment.load
    for family in problem.families:
        activity = family.activity(per_token, per_expert)
        over, under = activity - family.upper, family.lower - activity
        amounts = torch.maximum(over, under)
        limits = torch.where(over > under, family.upper, family.lower)
        broken = (amounts > noise * limits.clamp(min=1)).nonzero().flatten()
        count += len(broken)
        for row in _worst(broken, amounts[broken]).tolist():
            word = "at most" if over[row] > under[row] else "at least"
            name = family.name(row)
            says = f"{name} counts {activity[row]:g}, {word} {limits[row]:g}"
            found.append(Violation(name, float(amounts[row]), says, float(limits[row])))
    return tuple(sorted(found, key=lambda violation: -violation.amount)), count


def _pairs(problem: RoutingProblem, x: Tensor, noise: float) -> tuple[list[Violation], int]:
    """Pairs that are negative, forbidden, or taken more often than the row has copies."""
    copies = problem.copies()
    found: list[Violation] = []
    count = 0
    for rows in problem.row_chunks():
        amounts, allowed = x[rows].double(), problem.allowed[rows]
        most = copies[rows, None] * allowed
        excess = torch.maximum(amounts - most, -amounts)
        broken = (excess > noise * most.clamp(min=1)).nonzero()
        count += len(broken)
        worst = _worst(broken, excess[broken[:, 0], broken[:, 1]])
        for i, j in worst.tolist():
            name, amount = f"x_{rows.start + i}_{j}", float(amounts[i, j])
            limit = "at least 0" if amount < 0 else f"at most {most[i, j]:g}"
            why = "" if allowed[i, j] else " (score -inf forbids the pair)"
            says = f"{name} is {amount:g}, {limit}{why}"
            found.append(Violation(name, float(excess[i, j]), says, float(most[i, j])))
    return found, count


def _worst(broken: Tensor, amounts: Tensor) -> Tensor:
    """The `NAMED` entries of `broken` with the largest amounts, in their own order otherwise."""
    if len(broken) <= NAMED:
        return broken
    return broken[torch.topk(amounts, NAMED).indices.sort().values]
