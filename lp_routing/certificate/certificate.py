"""How good an assignment is, proved by weak duality: needs no solver and holds at any prices.

For any prices of the experts, the total and the groups,

    bound = sum_i best_i(s_i - p) + sum_c max(upper_c price_c, lower_c price_c)

is at least the value of every feasible assignment, where best_i is what token i alone would earn
(`lp_routing.certificate.best_response`) and c runs over all constraints but the token rows.
At optimal prices it equals the optimum (linear programming duality).

Everything that depends on single scores adds up over tokens (`token_sums`, one pass over chunks of
rows): the sums of two sets of tokens, such as the shards of a batch, are those of all tokens
together. The remaining terms, prices times limits and loads against limits, are small and computed
once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lp_routing.certificate.best_response import Response, best_response
from lp_routing.certificate.exact_arithmetic import (
    MANTISSA_BITS,
    Dot,
    Number,
    exact_dot,
    float_dot,
    grid_of,
    round_to_grid,
)
from lp_routing.certificate.prices import PairPrices, Prices, clipped, pair_prices
from lp_routing.certificate.row_sums import row_sums
from lp_routing.certificate.violations import (
    PrimalSums,
    Violation,
    assignment_amounts,
    no_primal_sums,
    primal_sums,
    violations_in,
)
from lp_routing.display import as_html, as_text, data_frame
from lp_routing.errors import InputError
from lp_routing.problem.assignment import Assignment
from lp_routing.problem.problem import RoutingProblem, check_problem
from lp_routing.process_group import ALONE, ProcessGroup
from lp_routing.validation import as_bool, as_share

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class DualSums:
    """What tokens would earn, each alone, at given prices: their part of a bound.

    Attributes:
        worth: sum of scores minus prices of what they would take.
        magnitude: sum of the sizes of these scores and prices.
        possible: whether every token has enough allowed pairs for its lower bound.
    """

    worth: Number = 0
    magnitude: float = 0.0
    possible: bool = True

    def __add__(self, other: "DualSums") -> "DualSums":
        """What two sets of tokens would earn."""
        return DualSums(
            self.worth + other.worth,
            self.magnitude + other.magnitude,
            self.possible and other.possible,
        )


@dataclass(frozen=True, eq=False)
class CertificateSums:
    """The sums that a certificate needs over a set of tokens; those of two sets add up with `+`.

    Attributes:
        taken: what the assignment takes, and which pairs and tokens break their bounds.
        earned: what the tokens would earn, once for each table of prices.
    """

    taken: PrimalSums
    earned: tuple[DualSums, ...]

    def __add__(self, other: "CertificateSums") -> "CertificateSums":
        """The sums of two sets of tokens."""
        pairs = zip(self.earned, other.earned, strict=True)
        return CertificateSums(self.taken + other.taken, tuple(a + b for a, b in pairs))


def token_sums(
    problem: RoutingProblem,
    x: Tensor | None,
    tables: Sequence[dict[str, Tensor]],
    *,
    exact: bool = False,
) -> CertificateSums:
    """The sums over all tokens of a problem, each chunk of rows read once for each table.

    Args:
        problem: its scores, multiplicity and bounds of tokens are used, and its token groups.
        x: amounts (T, E), or None where only the bound is asked for.
        tables: one or more tables of prices, as `prices.clipped` returns them.
        exact: add up fractions, not float64.

    Raises:
        InputError: NaN or infinite amounts.
    """
    if not exact and len(tables) == 1:
        quick = _quick_sums(problem, x, tables[0])
        if quick is not None:
            return quick
    dot: Dot = exact_dot if exact else float_dot
    sums = CertificateSums(no_primal_sums(problem), tuple(DualSums() for _ in tables))
    paid = [pair_prices(problem, table) for table in tables]
    chunks = zip(*(best_response(problem, p, exact_order=exact) for p in paid), strict=True)
    for responses in chunks:
        rows, scores = responses[0].rows, responses[0].matrix
        taken = sums.taken
        if x is not None:
            taken = taken + primal_sums(problem, rows, scores, x[rows], dot)
        earned = [_earned_by(r, dot) for r in responses]
        if exact:
            parts = zip(earned, responses, paid, strict=True)
            earned = [each + _rounding(response, p) for each, response, p in parts]
        pairs = zip(sums.earned, earned, strict=True)
        sums = CertificateSums(taken, tuple(before + each for before, each in pairs))
    return sums


def _quick_sums(
    problem: RoutingProblem, x: Tensor | None, table: dict[str, Tensor]
) -> CertificateSums | None:
    """The sums in one compiled pass; None where it does not apply, or where a bound is broken."""
    sums = row_sums(problem, x, pair_prices(problem, table).experts)
    if sums is None or sums.broken:
        return None
    load = torch.from_numpy(sums.load)
    taken = replace(no_primal_sums(problem), value=sums.value, size=sums.size, load=load)
    return CertificateSums(taken, (DualSums(worth=sums.worth, magnitude=sums.magnitude),))


def _earned_by(response: Response, dot: Dot) -> DualSums:
    if not response.possible:
        return DualSums(possible=False)
    amounts = response.amounts
    return DualSums(
        worth=dot(amounts, response.scores) - dot(amounts, response.prices),
        magnitude=float_dot(amounts, response.scores.abs() + response.prices.abs()),
    )


def _rounding(response: Response, paid: PairPrices) -> DualSums:
    """What rounding may hide in the prices of side rows: added, so that an exact bound holds."""
    if paid.weights is None:
        return DualSums()
    lost = float_dot(response.units, paid.rounding(response.rows).sum(1, keepdim=True))
    return DualSums(worth=Fraction(lost * (1 + SUMMED)))


TOLERANCE = 1e-9
"""Relative gap up to which an answer counts as optimal, and the same of bounds that it breaks.

An allowance for rounding: float64 gaps are off by some 1e-13 of the bound (`CANCELLATION`), and
prices of HiGHS by up to 1e-10, its least tolerance. A larger one would pass answers that lose
something.
"""

SUMMED = 1e-6
"""Relative: a float64 sum of fewer than 2**30 positive numbers is off by less."""

AnyAssignment = Assignment | Tensor | np.ndarray[Any, Any] | Sequence[Any]

CANCELLATION = 2.0**10
"""A float64 bound is used where its terms' magnitudes sum to at most this many times its own.

Sums lose some 1e-16 of what is added up, so the bound is right to about 1e-13 of itself. Beyond, it
is evaluated in exact fractions, which is slower; a lower limit would do that more often.
"""


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
        note: how the assignment was read, where it was no `Assignment` and is ambiguous.
    """

    value: Number
    bound: Number
    violations: tuple[Violation, ...]
    violation_count: int
    scale: float
    exact: bool = False
    proof: str = "weak duality"
    note: str = ""

    @property
    def gap(self) -> Number:
        """`bound - value`: at most this is lost; negative by rounding, or where infeasible."""
        return self.bound - self.value

    @property
    def relative_gap(self) -> float:
        """`gap / max(scale, |bound|)`; the gap itself where all scores are 0.

        It is relative to the chosen scores: a score that is not taken, such as a mask of -1e9,
        hides nothing. One huge score that is taken does hide small losses; look at `gap` then.
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

    def to_frame(self) -> "pandas.DataFrame":
        """One row: gap, relative gap, value, bound, violation, count of violations, and so on."""
        columns = {
            "gap": float(self.gap),
            "relative_gap": self.relative_gap,
            "value": float(self.value),
            "bound": float(self.bound),
            "violation": self.violation,
            "violation_count": self.violation_count,
            "exact": self.exact,
            "proof": self.proof,
            "note": self.note,
        }
        return data_frame("to_frame")([columns])

    def _shown(self) -> dict[str, object]:
        broken = self.violations[0].says if self.violations else None
        more = f" (and {self.violation_count - 1} more)" if self.violation_count > 1 else ""
        return {
            "gap": self.gap,
            "relative_gap": f"{self.relative_gap:.3%}",
            "value": self.value,
            "bound": self.bound,
            "broken": broken and broken + more,
            "exact": self.exact or None,
            "proof": self.proof,
            "note": self.note or None,
        }

    __repr__ = as_text
    _repr_html_ = as_html

    def proves_optimal(self, tolerance: float = TOLERANCE) -> bool:
        """Whether all bounds hold and |`relative_gap`| is small, both up to `tolerance`.

        A bound holds where it is broken by at most `tolerance`, or that share of itself if it is
        above 1: sums of many fractions are not more precise than that.
        """
        tolerance = as_share(tolerance, "tolerance")
        return self.keeps_bounds(tolerance) and abs(self.relative_gap) <= tolerance

    def keeps_bounds(self, tolerance: float = 0.0) -> bool:
        """Whether every bound holds, up to `tolerance` times the bound, or times 1 if less."""
        tolerance = as_share(tolerance, "tolerance")
        if self.violation_count > len(self.violations):  # unlisted ones are not larger
            return self.violation <= tolerance
        return all(v.amount <= tolerance * max(1.0, abs(v.limit)) for v in self.violations)


def certify(
    problem: RoutingProblem,
    assignment: AnyAssignment,
    prices: Prices,
    *,
    exact: bool = False,
    group: Any = None,
) -> Certificate:
    """Measure any assignment against the bound of any prices.

    Args:
        problem: what the assignment is judged by.
        assignment: an `Assignment` without leading dimensions, whose amounts are taken as they
            are, fractions too; amounts (T, E), boolean or whole; or a router's answer as
            `lp_routing.router_outputs.read_output` reads it, in which combine weights are choices
            (`Certificate.note` says so). It need not be feasible; broken constraints are listed.
        prices: from a solver, another batch, or anywhere; poor prices give a poor bound, never a
            wrong one.
        exact: evaluate value and bound as exact fractions. The prices are then read both as they
            are (in 53 bits relative to the largest sum that a pair pays) and rounded to the grid of
            the scores, on which optimal prices of an integral problem lie; the better bound counts.
        group: a `torch.distributed` process group whose ranks hold the tokens, each its own rows of
            problem and assignment; bounds on experts and the total are those of all ranks. The
            certificate is that of all tokens, on every rank; rows are numbered rank by rank.

    Raises:
        InputError: wrong shape, NaN, fractions that are no weights and stand in no `Assignment`,
            prices that do not belong to the problem.
        GroupError: another rank failed, or did not answer in time.

    One pass over the scores, chunk by chunk: memory does not grow with them.

    Without `exact`, value and bound carry the rounding of float64 sums, some 1e-16 of what is
    added up; a bound that is small beside what was added up to it is evaluated exactly.

    Example:
        >>> problem = lpr.problems.capacity([[3, 1], [2, 1]], k=1, capacity=1)
        >>> prices = lpr.solve(problem).prices
        >>> worse = torch.tensor([[0, 1], [1, 0]])
        >>> lpr.certify(problem, worse, prices)
        Certificate(gap=1, relative_gap=25.000%, value=3, bound=4, proof=weak duality)
    """
    if not isinstance(problem, RoutingProblem) or not isinstance(prices, Prices):
        raise InputError(
            f"certify expects a RoutingProblem, an assignment and Prices, got "
            f"{type(problem).__name__} and {type(prices).__name__}; without prices, give Prices()."
        )
    exact, processes = as_bool(exact, "certify: exact"), ProcessGroup(group)
    with processes.together():
        x, note = assignment_amounts(problem, assignment)
        table = clipped(problem, prices)
        tables = _on_grids(problem, table, processes) if exact else [table]
        sums = _of_all(processes, token_sums(problem, x, tables, exact=exact))
        note = next(filter(None, processes.gathered(note)), "")
        return replace(certificate_of(problem, sums, tables, exact, processes), note=note)


def certificate_of(
    problem: RoutingProblem,
    sums: CertificateSums,
    tables: list[dict[str, Tensor]],
    exact: bool = False,
    processes: ProcessGroup = ALONE,
) -> Certificate:
    """The certificate that the sums over all tokens make, with the tables they were made with."""
    bound: Number
    if exact:
        bound = _best_bound(problem, sums.earned, tables)
    else:
        bound = _float_bound(problem, sums.earned[0], tables[0], processes)
    smallest = [size for size in processes.gathered(problem.smallest_score) if size > 0]
    violations, count = violations_in(problem, sums.taken)
    return Certificate(
        value=sums.taken.value,
        bound=bound,
        violations=violations,
        violation_count=count,
        scale=max(min(smallest, default=0.0), abs(sums.taken.size)),
        exact=exact,
    )


def dual_bound(problem: RoutingProblem, prices: Prices, *, group: Any = None) -> float:
    """An upper bound on the value of every feasible assignment, in float64; -inf if none exists.

    Where prices are so large beside scores that rounding would matter, it is evaluated exactly.
    With a `group`, the bound of the tokens of all its ranks together, as in `certify`.

    Example:
        >>> problem = lpr.problems.capacity([[3, 1], [2, 1]], k=1, capacity=1)
        >>> lpr.dual_bound(problem, lpr.Prices())
        5.0
        >>> lpr.dual_bound(problem, lpr.Prices(experts=torch.tensor([1.0, 0.0])))
        4.0
    """
    check_problem(problem, "dual_bound")
    processes = ProcessGroup(group)
    with processes.together():
        table = clipped(problem, prices)
        sums = _of_all(processes, token_sums(problem, None, [table]))
        return _float_bound(problem, sums.earned[0], table, processes)


def exact_bound(
    problem: RoutingProblem, table: dict[str, Tensor], processes: ProcessGroup = ALONE
) -> Number:
    """`dual_bound` without rounding, from clipped prices: a Fraction, or -inf."""
    tables = _on_grids(problem, table, processes)
    sums = _of_all(processes, token_sums(problem, None, tables, exact=True))
    return _best_bound(problem, sums.earned, tables)


def _of_all(processes: ProcessGroup, sums: CertificateSums) -> CertificateSums:
    """The sums over the tokens of all ranks, in the order of ranks."""
    return reduce(add, processes.gathered(sums))


def _largest_pair_price(problem: RoutingProblem, table: dict[str, Tensor]) -> float:
    """An upper bound on the size of any partial sum of the prices that one pair pays.

    Weights of side rows are left out: what their sums lose by rounding is counted (`_rounding`).
    """
    largest = 0.0
    for family in problem.families:
        if family.kind in table:
            nested = 1 if family.members is None else int(family.members.sum(0).max())
            largest += nested * float(table[family.kind].abs().max())
    return largest


def _on_grids(
    problem: RoutingProblem, table: dict[str, Tensor], processes: ProcessGroup
) -> list[dict[str, Tensor]]:
    """The prices as they are, and rounded to the grid of the scores: in 53 bits, so sums are exact.

    53 bits relative to the largest sum that a pair pays.
    """
    finest = min((grid_of(values) for values in table.values()), default=0)
    representable = int(np.frexp(_largest_pair_price(problem, table))[1]) - MANTISSA_BITS
    grids = {
        max(finest, representable),
        max(min(processes.gathered(_grid_of_scores(problem))), representable),
    }
    return [
        {kind: round_to_grid(values, power) for kind, values in table.items()}
        for power in sorted(grids)
    ]


def _grid_of_scores(problem: RoutingProblem) -> int:
    """`grid_of` the scores, chunk by chunk; chunks of nothing but 0 and -inf have any grid."""
    chunks = (problem.scores[rows] for rows in problem.row_chunks())
    grids = (grid_of(chunk) for chunk in chunks if bool((chunk.isfinite() & (chunk != 0)).any()))
    return min(grids, default=0)


def _float_bound(
    problem: RoutingProblem, earned: DualSums, table: dict[str, Tensor], processes: ProcessGroup
) -> float:
    """The bound in float64, or in exact arithmetic where cancellation is too strong."""
    if not earned.possible:
        return float("-inf")
    limits, magnitude = _on_limits(problem, table, float_dot)
    bound = float(earned.worth + limits)
    if not earned.magnitude + magnitude <= CANCELLATION * abs(bound):
        return float(exact_bound(problem, table, processes))
    return bound


def _best_bound(
    problem: RoutingProblem, earned: Sequence[DualSums], tables: Sequence[dict[str, Tensor]]
) -> Number:
    """The smallest of the bounds of several tables, in exact arithmetic; -inf if none exists."""
    if not all(each.possible for each in earned):
        return float("-inf")
    pairs = zip(earned, tables, strict=True)
    return min(each.worth + _on_limits(problem, table, exact_dot)[0] for each, table in pairs)


def _on_limits(problem: RoutingProblem, table: dict[str, Tensor], dot: Dot) -> tuple[Number, float]:
    """Prices times limits, which a bound has beside the tokens' part; and the sum of magnitudes."""
    total: Number = 0
    magnitude = 0.0
    for family in problem.families:
        if family.kind != "token":
            values = table[family.kind]
            limits = torch.where(values > 0, family.upper, family.lower).where(values != 0, 0.0)
            total += dot(values, limits)
            magnitude += float_dot(values.abs(), limits.abs())
    return total, magnitude
