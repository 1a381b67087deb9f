"""How good an assignment is, proved by weak duality: no solver needed, any prices will do.

For any prices of the experts, the total and the groups,

    bound = sum_i best_i(s_i - p) + sum_c max(upper_c price_c, lower_c price_c)

is at least the value of every feasible assignment, where best_i is what token i alone would earn
(`lp_routing.best_response`) and c runs over all constraints but the token rows. Prices that are
optimal make it equal to the optimum (linear programming duality).
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lp_routing.assignment import Assignment
from lp_routing.best_response import best_response
from lp_routing.errors import InputError
from lp_routing.exact import MANTISSA_BITS, exact_dot, grid_of, round_to_grid
from lp_routing.prices import Prices, clipped, pair_prices
from lp_routing.problem import RoutingProblem
from lp_routing.violations import Violation, as_amounts, violations_of

AnyAssignment = Assignment | Tensor | np.ndarray[Any, Any]
Number = float | Fraction
Dot = Callable[[Tensor, Tensor], Number]

CANCELLATION = 2.0**10
"""A float64 bound is trusted while at most this many times its size was added up to it."""


@dataclass(frozen=True)
class Certificate:
    """What an assignment is worth, what any could be worth, and which constraints it breaks.

    Attributes:
        value: sum of s_ij x_ij over allowed pairs; a Fraction where `exact`.
        bound: no feasible assignment is worth more; -inf where none exists; likewise a Fraction.
        violations: the broken constraints, worst first.
        violation_count: how many constraints are broken; `violations` names the worst of them.
        scale: sum of |s_ij| x_ij, or the smallest |score| that is not 0 where that is larger.
        exact: whether value and bound were evaluated without rounding.
        proof: what the bound rests on: "weak duality", checked here, or a solver's own search.
    """

    value: Number
    bound: Number
    violations: tuple[Violation, ...]
    violation_count: int
    scale: float
    exact: bool = False
    proof: str = "weak duality"

    @property
    def gap(self) -> Number:
        """`bound - value`: at most this is lost; negative by rounding, or where infeasible."""
        return self.bound - self.value

    @property
    def relative_gap(self) -> float:
        """`gap / max(scale, |bound|)`; the gap itself where all scores are 0.

        It is relative to what is chosen: a score that nobody takes, such as a mask of -1e9, hides
        nothing. One huge score that is taken does hide small losses; look at `gap` then.
        """
        if self.gap == 0:
            return 0.0
        if self.bound == float("-inf") or self.scale == 0:
            return float(self.gap)
        return float(self.gap) / max(self.scale, abs(float(self.bound)))

    @property
    def violation(self) -> float:
        """The largest amount by which a constraint is broken, in pairs; 0 where none is."""
        return self.violations[0].amount if self.violations else 0.0

    def proves_optimal(self, tolerance: float = 1e-9) -> bool:
        """Whether all bounds hold and |`relative_gap`| is small, both up to `tolerance`.

        A bound holds where it is broken by at most `tolerance`, or that share of itself if it is
        above 1: sums of many fractions are not more precise than that.
        """
        return self.keeps_bounds(tolerance) and abs(self.relative_gap) <= tolerance

    def keeps_bounds(self, tolerance: float = 0.0) -> bool:
        """Whether every bound holds, up to `tolerance` times the bound, or times 1 if less."""
        if self.violation_count > len(self.violations):  # what is not named is not larger
            return self.violation <= tolerance
        return all(v.amount <= tolerance * max(1.0, v.limit) for v in self.violations)


def certify(
    problem: RoutingProblem, assignment: AnyAssignment, prices: Prices, *, exact: bool = False
) -> Certificate:
    """Measure any assignment against the bound of any prices.

    Args:
        problem: what the assignment is judged by.
        assignment: an `Assignment` without leading dimensions, or amounts (T, E): boolean, whole
            or fractional. It need not be feasible; what it breaks is listed.
        prices: from a solver, another batch, or anywhere; poor prices give a poor bound, never a
            wrong one.
        exact: evaluate value and bound as exact fractions. The prices are then read both as they
            are (in 53 bits relative to the largest sum that a pair pays) and rounded to the grid of
            the scores, on which optimal prices of an integral problem lie; the better bound counts.

    Raises:
        InputError: wrong shape, NaN, prices that do not belong to the problem.

    Without `exact`, value and bound carry the rounding of float64 sums, some 1e-16 of what is
    added up; a bound that is small beside what was added up to it is evaluated exactly.
    """
    if not isinstance(problem, RoutingProblem) or not isinstance(prices, Prices):
        raise InputError(
            f"certify expects a RoutingProblem, an assignment and Prices, got "
            f"{type(problem).__name__} and {type(prices).__name__}; without prices, give Prices()."
        )
    x = as_amounts(problem, assignment)
    dot: Dot = exact_dot if exact else float_dot
    value: Number = 0
    scale = problem.smallest_score
    taken = 0.0
    for rows in problem.row_chunks():
        scores = problem.scores[rows].double()
        scores = scores.masked_fill(scores == float("-inf"), 0)
        value += dot(x[rows].double(), scores)
        taken += float_dot(x[rows].double(), scores.abs())
    violations, count = violations_of(problem, x)
    return Certificate(
        value=value,
        bound=exact_bound(problem, prices) if exact else dual_bound(problem, prices),
        violations=violations,
        violation_count=count,
        scale=max(scale, abs(taken)),
        exact=exact,
    )


def dual_bound(problem: RoutingProblem, prices: Prices) -> float:
    """An upper bound on the value of every feasible assignment, in float64; -inf if none exists.

    Where prices are so much larger than scores that rounding could show, it is evaluated exactly.
    """
    value, magnitude = _bound(problem, clipped(problem, prices), float_dot, exact=False)
    bound = float(value)
    if bound == float("-inf"):
        return bound
    if not magnitude <= CANCELLATION * abs(bound):
        return float(exact_bound(problem, prices))
    return bound


def exact_bound(problem: RoutingProblem, prices: Prices) -> Number:
    """`dual_bound` without rounding: a Fraction, or -inf."""
    table = clipped(problem, prices)
    finest = min((grid_of(values) for values in table.values()), default=0)
    representable = int(np.frexp(_largest_pair_price(problem, table))[1]) - MANTISSA_BITS
    grids = {max(finest, representable), max(grid_of(problem.scores), representable)}
    return min(
        _bound(
            problem,
            {kind: round_to_grid(values, power) for kind, values in table.items()},
            exact_dot,
            exact=True,
        )[0]
        for power in grids
    )


def float_dot(a: Tensor, b: Tensor) -> float:
    """sum(a * b) in float64."""
    return float((a * b).sum())


def _largest_pair_price(problem: RoutingProblem, table: dict[str, Tensor]) -> float:
    """No sum of the prices that one pair pays, nor any part of it, is larger than this."""
    largest = 0.0
    for family in problem.families:
        if family.kind in table:
            nested = 1 if family.members is None else int(family.members.sum(0).max())
            largest += nested * float(table[family.kind].abs().max())
    return largest


def _bound(
    problem: RoutingProblem, table: dict[str, Tensor], dot: Dot, exact: bool
) -> tuple[Number, float]:
    """The bound, and the sum of the magnitudes that were added up to it."""
    on_tokens, on_experts = pair_prices(problem, table)
    bound: Number = 0
    magnitude = 0.0
    for response in best_response(problem, on_tokens, on_experts, exact_order=exact):
        if not response.possible:
            return float("-inf"), magnitude
        amounts = response.amounts
        bound += dot(amounts, response.scores) - dot(amounts, response.prices)
        magnitude += float_dot(amounts, response.scores.abs() + response.prices.abs())
    for family in problem.families:
        if family.kind != "token":
            values = table[family.kind]
            limits = torch.where(values > 0, family.upper, family.lower)
            bound += dot(values, limits)
            magnitude += float_dot(values.abs(), limits)
    return bound, magnitude
