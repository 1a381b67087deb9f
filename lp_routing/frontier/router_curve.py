"""A router's own curve beside the optimum."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lp_routing.certificate.certificate import certify
from lp_routing.certificate.prices import Prices
from lp_routing.errors import InputError
from lp_routing.evaluation.evaluate import ROUNDING
from lp_routing.problem.problem import RoutingProblem
from lp_routing.router_outputs import as_taken
from lp_routing.scores import check_logits
from lp_routing.validation import whole


@dataclass(frozen=True, eq=False)
class RouterCurve:
    """What a router makes of several budgets.

    Attributes:
        name: of the router.
        budgets: int64 (P,), strictly rising.
        values: float64 (P,), what it takes, in units of the problem's scores.
        feasible: boolean (P,), whether it keeps every bound there; where it does not, its value
            says nothing of quality.
    """

    name: str
    budgets: Tensor
    values: Tensor
    feasible: Tensor


def router_curve(
    make: Callable[[int], Any],
    budgets: Sequence[int],
    problem_at: Callable[[int], RoutingProblem],
    logits: Tensor,
    *,
    name: str = "",
) -> RouterCurve:
    """Route the same logits at every budget, each time with a router built for it.

    Args:
        make: budget -> a router or function from logits (T, E) to an `Assignment`, amounts, or
            what else `compare` reads; one with a state is cold each time.
        budgets: whole numbers that rise.
        problem_at: budget -> the problem that judges: its scores, its bounds.
        logits: (T, E), what routers are called with.
        name: of the router; left out, that of its type.

    Raises:
        InputError: bad logits or budgets; what a router cannot answer.
    """
    values = check_logits(logits, "logits")
    given = [whole(n, "budgets", 0) for n in budgets]
    if not given or sorted(set(given)) != given:
        raise InputError(f"budgets: expected whole numbers that rise, got {list(budgets)}.")
    found = []
    for n in given:
        router = make(n)
        name = name or getattr(router, "__name__", type(router).__name__)
        taken = as_taken(router(values.clone()), values)
        found.append(certify(problem_at(n), taken, Prices()))
    return RouterCurve(
        name,
        torch.tensor(given),
        torch.tensor([float(each.value) for each in found], dtype=torch.float64),
        torch.tensor([each.keeps_bounds(ROUNDING) for each in found]),
    )
