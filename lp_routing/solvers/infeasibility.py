"""Why no assignment exists: demands that clash with what can be given, proved and put in words.

The proof is a price vector under which even scores of zero would have a negative bound: every
feasible assignment would be worth 0 then, so there is none (Farkas' lemma). For whole bounds and
nested groups the prices are -1, 0 and 1, and the clash is a violated cut of the network
(Hoffman's circulation theorem): the constraints priced -1 need more than those priced 1 give.

Scores do not matter, so rows that are alike but for them are merged first
(`lp_routing.solvers.aggregation`): the cost is that of the distinct rows. A million tokens that may
all go anywhere are one row.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from lp_routing.certificate.certificate import dual_bound
from lp_routing.certificate.prices import Prices, clipped, from_table
from lp_routing.certificate.ties import token_prices
from lp_routing.display import as_html, as_text, data_frame
from lp_routing.problem.constraints import Family
from lp_routing.problem.problem import RoutingProblem
from lp_routing.process_group import ALONE, ProcessGroup
from lp_routing.solvers.aggregation import AggregatedProblem, Array, aggregate_rows_of_all_ranks
from lp_routing.solvers.linear_program import LinearProgram, Vector, linear_program
from lp_routing.solvers.min_cost_flow import cut_prices

if TYPE_CHECKING:
    import pandas

TINY = 1e-7
"""Duals this close to a whole number are taken as that number.

It lies far above the solver's tolerance, 1e-10. A proof by rounded duals is checked by its own
bound, so a wrong rounding cannot pass.
"""


@dataclass(frozen=True, eq=False)
class Infeasibility:
    """A proof that a problem has no feasible assignment.

    Attributes:
        needs: constraint name to the amount it demands, in pairs, times its weight in the clash.
        gives: constraint name to the amount it can give, likewise; "pairs" for the limit of one
            (or m_i) on each single pair. All weights are 1 where the LP is integral.
        prices: under which zero scores have a negative bound.
        says: the clash in words.
    """

    needs: dict[str, float]
    gives: dict[str, float]
    prices: Prices
    says: str

    @property
    def shortfall(self) -> float:
        """By how many pairs the demand exceeds what can be given."""
        return math.fsum(self.needs.values()) - math.fsum(self.gives.values())

    def to_frame(self) -> "pandas.DataFrame":
        """One row for each constraint of the clash: name, side ("needs", "gives"), amount."""
        sides = {"needs": self.needs, "gives": self.gives}
        rows = [
            {"name": name, "side": side, "amount": amount}
            for side, amounts in sides.items()
            for name, amount in amounts.items()
        ]
        return data_frame("to_frame")(rows, columns=["name", "side", "amount"])

    def _shown(self) -> dict[str, object]:
        return {"shortfall": self.shortfall, "says": self.says}

    __repr__ = as_text
    _repr_html_ = as_html


class Part(NamedTuple):
    """One family's constraints on one side of a clash.

    Attributes:
        family: which family of the problem.
        rows: int64 (n,), which of its constraints, ascending.
        amounts: float64 (n,), what each demands or can give, in pairs, times its weight.
    """

    family: Family
    rows: Array
    amounts: Vector

    def named(self) -> Iterator[tuple[str, float]]:
        """The name of each constraint with its amount."""
        names = map(self.family.name, self.rows)
        # one number for all tokens where theirs are equal: no list of a million equal ones
        values, which = np.unique(self.amounts, return_inverse=True)
        shared = values.tolist()
        return zip(names, (shared[i] for i in which), strict=True)


class Clash(NamedTuple):
    """Both sides of a clash, and what the limits of single pairs can give, in pairs."""

    needs: list[Part]
    gives: list[Part]
    through_pairs: float

    @property
    def shortfall(self) -> float:
        """By how many pairs the demand exceeds what can be given."""
        needed = math.fsum(float(part.amounts.sum()) for part in self.needs)
        return (
            needed
            - math.fsum(float(part.amounts.sum()) for part in self.gives)
            - (self.through_pairs)
        )


def explain(problem: RoutingProblem, processes: ProcessGroup = ALONE) -> Infeasibility | None:
    """Find and prove a clash of bounds, or None where none can be proved.

    For a flow it is the most violated cut, found by `MinCostFlow`: bounds must be loosened by its
    shortfall at least. Where the problem is no flow, or a token alone must take more than it may,
    it comes from the LP of least total violation, solved by HiGHS. Tokens that differ in nothing
    but their scores are one row in both.

    Args:
        problem: the problem; on a group of processes this rank's tokens, under the bounds of all.
        processes: those that hold the tokens; each gets the same answer about the tokens of all,
            numbered in the order of ranks.
    """
    merged = aggregate_rows_of_all_ranks(problem, processes)
    program = linear_program(merged.problem)
    duals = _cut_duals(merged.problem)
    if duals is None:
        duals = _elastic_duals(program)
    if duals is None:
        return None
    duals = _cleaned(program, duals)
    prices = from_table(problem, _by_kind(program, duals))
    # other rows alike earn the same at zero scores: this is the bound of the problem itself
    if not dual_bound(merged.problem, prices) < -TINY:
        return None
    clash = _clash(merged, program, _without_easy_tokens(program, duals))
    needs = dict(chain.from_iterable(part.named() for part in clash.needs))
    gives = dict(chain.from_iterable(part.named() for part in clash.gives))
    if clash.through_pairs > 0:
        gives["pairs"] = clash.through_pairs
    return Infeasibility(needs, gives, prices, _in_words(problem, clash))


def _cut_duals(problem: RoutingProblem) -> Any:
    """Row duals -1, 0 and 1 of the cut that `MinCostFlow` ends with; None where none is proved."""
    prices = cut_prices(problem) if problem.is_integral else None
    if prices is None or not -math.inf < dual_bound(problem, prices) < -TINY:
        return None
    duals = clipped(problem, prices) | {"token": token_prices(problem, prices)}
    return np.concatenate([duals[family.kind].numpy() for family in problem.families])


def _elastic_duals(program: LinearProgram) -> Any:
    """Row duals of the LP that breaks bounds by the least total amount, or None if HiGHS fails."""
    from lp_routing.solvers.highs import HiGHS

    rows, columns = program.matrix.shape
    slack = sp.identity(rows, format="csc")
    elastic = LinearProgram(
        problem=program.problem,
        score=np.concatenate([np.zeros(columns), np.full(2 * rows, -1.0)]),
        matrix=sp.hstack([program.matrix, slack, -slack], format="csc"),
        row_lower=program.row_lower,
        row_upper=program.row_upper,
        column_upper=np.concatenate([program.column_upper, np.full(2 * rows, np.inf)]),
        token=program.token,
        expert=program.expert,
    )
    return HiGHS().run(elastic).row_duals


def _cleaned(program: LinearProgram, duals: Vector) -> Vector:
    """The duals without what is a solver's tolerance, or a weight on a bound that is not there."""
    whole = np.rint(duals)
    duals = np.where(np.abs(duals - whole) < TINY, whole, duals)
    demands = [family.demands.cpu().numpy() for family in program.problem.families]
    bottomless = ~np.concatenate([np.zeros(0, bool), *demands])
    idle = (duals < 0) & bottomless | (duals > 0) & np.isinf(program.row_upper)
    return np.where(idle, 0.0, duals)


def _by_kind(program: LinearProgram, duals: Vector) -> dict[str, Vector]:
    """The duals (R,) of each family of the merged problem."""
    families = program.problem.families
    ends = np.cumsum([len(family) for family in families])
    parts = np.split(duals, ends[:-1]) if families else []
    return {family.kind: part for family, part in zip(families, parts, strict=True)}


def _clash(merged: AggregatedProblem, program: LinearProgram, duals: Vector) -> Clash:
    """Demands and supplies of the clash, each weighted with its price (1 for a cut)."""
    by_kind = _by_kind(program, duals)
    needs, gives = [], []
    for family in merged.families:
        weights = by_kind[family.kind]
        if family.kind == "token":
            weights = weights[merged.row]
        below, above = np.flatnonzero(weights < 0), np.flatnonzero(weights > 0)
        if len(below):
            needs.append(Part(family, below, -weights[below] * family.lower.cpu().numpy()[below]))
        if len(above):
            gives.append(Part(family, above, weights[above] * family.upper.cpu().numpy()[above]))
    return Clash(needs, gives, float(_through_pairs(program, duals).sum()))


def _without_easy_tokens(program: LinearProgram, duals: Vector) -> Vector:
    """Leave out tokens whose demand fits through pairs outside the clash: it stays as large."""
    if program.problem.family("token") is None:
        return duals
    T = program.problem.T
    left_out = duals.copy()
    left_out[:T][duals[:T] < 0] = 0.0
    # what a token's pairs can give to its own demand; to that of others they give in any case
    saved = _through_pairs(program, duals) - _through_pairs(program, left_out)
    outside = np.bincount(program.token, saved, minlength=T)
    easy = (duals[:T] < 0) & (-duals[:T] * program.row_lower[:T] <= outside)
    kept = duals.copy()
    kept[:T][easy] = 0.0
    return kept


def _through_pairs(program: LinearProgram, duals: Vector) -> Vector:
    """What each single pair can give beyond the constraints of the clash, (n,)."""
    wanted = -(program.matrix.T @ duals)
    return np.where(wanted > TINY, wanted * program.column_upper, 0.0)


def _in_words(problem: RoutingProblem, clash: Clash) -> str:
    need = " and ".join(_phrase(part, "need") for part in clash.needs)
    giving = [_phrase(part, "can give only") for part in clash.gives]
    if clash.through_pairs > 0:
        rest = "the other allowed pairs" if giving else "the allowed pairs"
        often = "once" if problem.multiplicity is None else "as often as its row has copies"
        amount = _number(clash.through_pairs)
        giving.append(f"{rest} can give only {amount} (each at most {often})")
    give = " and ".join(giving) or "nothing can be given"
    weighed = "" if problem.is_integral else " (Amounts are weighed where bounds overlap.)"
    return (
        f"No assignment exists: {need}, but {give}: {_number(clash.shortfall)} short. "
        f"Raise a capacity or lower a demand.{weighed}"
    )


def _phrase(part: Part, verb: str) -> str:
    """`tokens 0-7 need 16 (2 each)`."""
    family, rows, amounts = part
    equal = len(rows) > 1 and bool((amounts == amounts[0]).all())
    detail = f" ({_number(amounts[0])} each)" if equal else ""
    does = "needs" if verb == "need" and len(rows) == 1 else verb
    return f"{_who(family, rows)} {does} {_number(amounts.sum())}{detail}"


def _number(amount: float) -> str:
    """Six digits, but never fewer than the whole part has: one slot of a million counts."""
    return f"{amount:g}" if abs(amount) < 1e5 else f"{amount:.0f}"


def _who(family: Family, rows: Array) -> str:
    if family.kind == "total":
        return "the total budget"
    thing = family.kind.replace("_group", " group") + ("s" if len(rows) > 1 else "")
    names = ", ".join(family.labels[row] for row in rows) if family.labels else _ranges(rows)
    return f"{thing} {names}"


def _ranges(numbers: Array, most: int = 6) -> str:
    """`0-7, 12, 20-21` from ascending numbers; beyond `most` stretches, how many in all."""
    ends = np.flatnonzero(np.diff(numbers) > 1)
    first, last = np.append(0, ends + 1), np.append(ends, len(numbers) - 1)
    stretches = [
        str(low) if low == high else f"{low}-{high}"
        for low, high in zip(numbers[first[:most]], numbers[last[:most]], strict=True)
    ]
    if len(first) <= most:
        return ", ".join(stretches)
    return f"{', '.join(stretches)}, ... ({len(numbers)} in all)"
