"""Questions about budgets, as functions, and a router's own curve beside the optimum."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from lp_routing.certificate.certificate import TOLERANCE, certify
from lp_routing.certificate.prices import Prices
from lp_routing.display import as_html, as_text, data_frame
from lp_routing.errors import InputError
from lp_routing.frontier.budgets import SampledCurve
from lp_routing.frontier.curves import CertifiedCurve, ExactCurve, SharedBudget
from lp_routing.problem.assignment import Assignment
from lp_routing.problem.constraints import Family
from lp_routing.problem.named import balanced, served_unified, token_choice, unified
from lp_routing.problem.problem import RoutingProblem, check_problem
from lp_routing.router_outputs import as_amounts
from lp_routing.scores import check_logits
from lp_routing.solvers import Solver
from lp_routing.solvers.solve import Solution, Status, solve
from lp_routing.validation import Scores, as_callable, as_float, as_instance, as_int, as_rising

if TYPE_CHECKING:
    import pandas

INF = float("inf")


class SlotWorth(NamedTuple):
    """What the last slot of an expert adds, and what one more slot there would add."""

    last: float
    more: float


class Cost(NamedTuple):
    """The cost of a constraint: two proved optima.

    Attributes:
        free: the optimum without it.
        constrained: the optimum with it.
        lost: free - constrained.
        share: lost relative to |free|; NaN where free is 0.
    """

    free: float
    constrained: float
    lost: float
    share: float


def smallest_budget(
    curve: ExactCurve | CertifiedCurve | SampledCurve, value: float
) -> tuple[int | None, int | None]:
    """The smallest budgets that are (surely enough, surely needed) for a value.

    Equal where the curve is exact there; None where no budget is.

    Raises:
        InputError: a value that is no finite number.

    Example:
        >>> curve = lpr.frontier.over_total(lpr.RoutingProblem([[3, 1], [2, 1]]))
        >>> lpr.frontier.smallest_budget(curve, 4)
        (2, 2)
    """
    if not isinstance(curve, ExactCurve | CertifiedCurve | SampledCurve):
        raise InputError(
            f"smallest_budget expects a curve first, such as over_total(problem), got "
            f"{type(curve).__name__}."
        )
    if isinstance(curve, ExactCurve):
        found = curve.smallest(value)
        return found, found
    return curve.smallest(value)


def slot_worth(
    problem: RoutingProblem,
    expert: int,
    *,
    solver: Solver | None = None,
    value: float | None = None,
) -> SlotWorth:
    """What a slot at one expert is worth: the optimum with one fewer, and with one more, solved.

    The expert's upper bound moves by one; its lower bound too where both are equal.

    Args:
        problem: with an upper bound on that expert.
        expert: which.
        solver: finds each optimum; left out, `MinCostFlow` where optima are whole, HiGHS elsewhere.
        value: the optimum of the problem, where it is known.

    Returns:
        `last` is inf where there is no assignment with one slot fewer, or no slot at all; `more` is
        -inf where there is none with one more. Both are exact up to rounding, and last >= more.

    Raises:
        InputError: an expert without an upper bound, or a problem without an assignment.

    Example:
        >>> problem = lpr.problems.capacity([[3, 1], [2, 1]], k=1, capacity=1)
        >>> lpr.frontier.slot_worth(problem, expert=0)
        SlotWorth(last=3.0, more=1.0)
    """
    check_problem(problem, "slot_worth")
    expert = as_int(expert, "expert", 0, problem.E - 1, "E - 1, the last expert")
    family = problem.family("expert")
    if family is None or not bool(family.upper[expert].isfinite()):
        raise InputError(f"slot_worth: expert {expert} has no upper bound, so slots are free.")
    here = (
        _optimum(problem, solver)
        if value is None
        else as_float(value, "value", "a finite number", lambda _: True)
    )
    if float(family.upper[expert]) < 1:
        last = INF
    else:
        last = here - _optimum(_moved(problem, expert, -1), solver, none=-INF)
    return SlotWorth(last, _optimum(_moved(problem, expert, 1), solver, none=-INF) - here)


def next_slot(shared: SharedBudget, n: int) -> int:
    """The layer that should get the next pair where n are split best.

    Raises:
        InputError: n is not whole, or no pair is left.

    Example:
        >>> shared = lpr.frontier.over_layers(torch.tensor([[[3.0, 1.0]], [[2.0, 2.0]]]))
        >>> lpr.frontier.next_slot(shared, 1)  # the layer that gets the second pair
        1
    """
    as_instance(shared, SharedBudget, "next_slot", "a SharedBudget first, of over_layers")
    n = as_int(n, "n", shared.total.first, shared.total.last - 1, "the largest budget less one")
    return int(shared.owners[n - shared.total.first])


def cost_of_balance(scores: Scores, k: int, *, solver: Solver | None = None) -> Cost:
    """The cost of equal loads: token choice against balanced assignment (BASE).

    Args:
        scores: (T, E); -inf forbids a pair.
        k: experts for every token, exactly.
        solver: finds each optimum; left out, `MinCostFlow`.

    Raises:
        InputError: bad scores or k; no such assignment.

    Example:
        >>> lpr.frontier.cost_of_balance([[3, 1], [2, 1]], k=1)
        Cost(free=5.0, constrained=4.0, lost=1.0, share=0.2)
    """
    return _cost(token_choice(scores, k), balanced(scores, k), solver)


def cost_of_serving(scores: Scores, total: int, *, solver: Solver | None = None) -> Cost:
    """The cost of serving every token, at the same total number of pairs.

    Args:
        scores: (T, E); -inf forbids a pair.
        total: N pairs, at least one for each token.
        solver: finds each optimum; left out, `MinCostFlow`.

    Raises:
        InputError: bad scores or total; no such assignment.

    Example:
        >>> lpr.frontier.cost_of_serving([[3, 2], [1, 0]], total=2)
        Cost(free=5.0, constrained=4.0, lost=1.0, share=0.2)
    """
    return _cost(unified(scores, total), served_unified(scores, total), solver)


def _cost(free: RoutingProblem, constrained: RoutingProblem, solver: Solver | None) -> Cost:
    without, having = _optimum(free, solver), _optimum(constrained, solver)
    lost = without - having
    return Cost(without, having, lost, lost / abs(without) if without else float("nan"))


def _optimum(problem: RoutingProblem, solver: Solver | None, none: float | None = None) -> float:
    """The proved value; `none` where there is no assignment, or an error if it is None."""
    solution: Solution = solve(problem, solver)
    if solution.status is Status.INFEASIBLE and none is not None:
        return none
    if solution.status is not Status.OPTIMAL:
        raise InputError(f"{solution.status.name}: {solution.explanation}")
    return float(solution.value)


def _moved(problem: RoutingProblem, expert: int, by: int) -> RoutingProblem:
    """The problem with `by` slots more at one expert."""
    return problem.with_families(
        tuple(
            _with_slots(family, expert, by) if family.kind == "expert" else family
            for family in problem.families
        )
    )


def _with_slots(family: Family, expert: int, by: int) -> Family:
    lower, upper = family.lower.clone(), family.upper.clone()
    upper[expert] += by
    if family.lower[expert] == family.upper[expert]:
        lower[expert] += by
    return replace(family, lower=lower, upper=upper)


@dataclass(frozen=True, eq=False)
class RouterCurve:
    """A router's value at several budgets.

    Attributes:
        name: of the router.
        budgets: int64 (P,), strictly rising.
        values: float64 (P,), of its choice, in units of the problem's scores.
        feasible: boolean (P,), whether it keeps every bound there; where it does not, its value is
            no measure of quality.
    """

    name: str
    budgets: Tensor
    values: Tensor
    feasible: Tensor

    def to_frame(self) -> "pandas.DataFrame":
        """One row for each budget: budget, value, feasible."""
        columns = {
            "budget": self.budgets.cpu().numpy(),
            "value": self.values.cpu().numpy(),
            "feasible": self.feasible.cpu().numpy(),
        }
        return data_frame("to_frame")(columns)

    def _shown(self) -> dict[str, object]:
        return {
            "name": self.name,
            "budgets": self.budgets,
            "values": self.values,
            "feasible": f"{int(self.feasible.sum())} of {len(self.feasible)}",
        }

    __repr__ = as_text
    _repr_html_ = as_html


def router_curve(
    make: Callable[[int], Any],
    budgets: Sequence[int],
    problem_at: Callable[[int], RoutingProblem],
    logits: Tensor,
    *,
    name: str = "",
) -> RouterCurve:
    """Route the same logits at every budget, with a router built for each.

    Args:
        make: budget -> a router or function from logits (T, E) to an `Assignment`, amounts, or
            what else `compare` reads; one with a state starts without it each time.
        budgets: whole numbers that rise.
        problem_at: budget -> the problem that judges: its scores, its bounds.
        logits: (T, E), what routers are called with.
        name: of the router; left out, that of its type.

    Raises:
        InputError: bad logits or budgets; what a router cannot answer.

    Example:
        >>> scores = torch.tensor([[3.0, 1.0], [2.0, 1.0]])
        >>> lpr.frontier.router_curve(
        ...     lambda C: lpr.routers.TopK(1, C, score="logits"),
        ...     [1, 2],
        ...     lambda C: lpr.problems.capacity(scores, 1, C),
        ...     scores,
        ... ).values.tolist()
        [3.0, 5.0]
    """
    values = check_logits(logits, "logits")
    given = as_rising(budgets, "budgets", 0)
    as_callable(make, "make", "a function from a budget to a router")
    as_callable(problem_at, "problem_at", "a function from a budget to a problem")
    name, found = as_instance(name, str, "name", "text"), []
    for n in given:
        router = make(n)
        name = name or getattr(router, "__name__", type(router).__name__)
        as_callable(router, f"make({n})", "a router")
        taken = as_amounts(router(values.clone()), values)
        found.append(certify(problem_at(n), Assignment(taken), Prices()))
    return RouterCurve(
        name,
        torch.tensor(given),
        torch.tensor([float(each.value) for each in found], dtype=torch.float64),
        torch.tensor([each.keeps_bounds(TOLERANCE) for each in found]),
    )
