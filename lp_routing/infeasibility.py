"""Why no assignment exists: demands that clash with what can be given, proved and put in words.

The proof is a price vector under which even scores of zero would have a negative bound: every
feasible assignment would be worth 0 then, so there is none (Farkas' lemma). For whole bounds and
nested groups the prices are -1, 0 and 1, and the clash is a violated cut of the network
(Hoffman's circulation theorem): the constraints priced -1 need more than those priced 1 give.
"""

from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from lp_routing.certificate import dual_bound
from lp_routing.constraints import Family
from lp_routing.linear_program import LinearProgram, Vector, linear_program
from lp_routing.prices import Prices
from lp_routing.problem import RoutingProblem

TINY = 1e-7
"""Duals smaller than this are zero up to the solver's tolerance."""


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
        return sum(self.needs.values()) - sum(self.gives.values())


def explain(problem: RoutingProblem) -> Infeasibility | None:
    """Find and prove a clash of bounds, or None where none can be proved.

    Solves one LP with HiGHS: the smallest total amount by which bounds must be broken.
    """
    program = linear_program(problem)
    duals = _elastic_duals(program)
    if duals is None:
        return None
    prices = program.prices(duals)
    without_scores = problem.with_scores(
        torch.where(problem.allowed, 0.0, float("-inf")).to(torch.float64)
    )
    if not dual_bound(without_scores, prices) < -TINY:
        return None
    needs, gives = _both_sides(program, duals)
    return Infeasibility(needs, gives, prices, _in_words(problem, needs, gives))


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


def _both_sides(program: LinearProgram, duals: Any) -> tuple[dict[str, float], dict[str, float]]:
    """Demands and supplies of the clash, each weighted with its price (1 for a cut)."""
    duals = np.where(np.abs(duals) < TINY, 0.0, duals)
    duals = _without_easy_tokens(program, duals)
    names = program.row_names
    needs = {
        names[row]: float(-duals[row] * program.row_lower[row]) for row in np.nonzero(duals < 0)[0]
    }
    gives = {
        names[row]: float(duals[row] * program.row_upper[row]) for row in np.nonzero(duals > 0)[0]
    }
    through_pairs = float(_through_pairs(program, duals).sum())
    if through_pairs > 0:
        gives["pairs"] = through_pairs
    return needs, gives


def _without_easy_tokens(program: LinearProgram, duals: Vector) -> Vector:
    """Leave out tokens whose demand fits through pairs outside the clash: it stays as large."""
    if program.problem.family("token") is None:
        return duals
    T = program.problem.T
    outside = np.bincount(program.token, _through_pairs(program, duals), minlength=T)
    demands = -duals[:T] * program.row_lower[:T]
    kept = duals.copy()
    kept[:T][(duals[:T] < 0) & (demands <= outside)] = 0.0
    return kept


def _through_pairs(program: LinearProgram, duals: Vector) -> Vector:
    """What each single pair can give beyond the constraints of the clash, (n,)."""
    wanted = -(program.matrix.T @ duals)
    return np.where(wanted > TINY, wanted * program.column_upper, 0.0)


def _in_words(problem: RoutingProblem, needs: dict[str, float], gives: dict[str, float]) -> str:
    shortfall = sum(needs.values()) - sum(gives.values())
    need = " and ".join(_phrases(problem, needs, "need"))
    giving = _phrases(problem, gives, "can give only")
    if "pairs" in gives:
        rest = "the other allowed pairs" if giving else "the allowed pairs"
        often = "once" if problem.multiplicity is None else "as often as its row has copies"
        giving.append(f"{rest} can give only {gives['pairs']:g} (each at most {often})")
    give = " and ".join(giving) or "nothing can be given"
    weighed = "" if problem.is_integral else " (Amounts are weighed where bounds overlap.)"
    return (
        f"No assignment exists: {need}, but {give}: {shortfall:g} short. "
        f"Raise a capacity or lower a demand.{weighed}"
    )


def _phrases(problem: RoutingProblem, amounts: dict[str, float], verb: str) -> list[str]:
    """`tokens 0-7 need 16 (2 each)`, one phrase a family."""
    phrases = []
    for family in problem.families:
        names = {family.name(row): row for row in range(len(family))}
        chosen = {names[name]: amount for name, amount in amounts.items() if name in names}
        if chosen:
            each = set(chosen.values())
            detail = f" ({each.pop():g} each)" if len(each) == 1 and len(chosen) > 1 else ""
            does = "needs" if verb == "need" and len(chosen) == 1 else verb
            phrases.append(f"{_who(family, list(chosen))} {does} {sum(chosen.values()):g}{detail}")
    return phrases


def _who(family: Family, rows: list[int]) -> str:
    if family.kind == "total":
        return "the total budget"
    thing = family.kind.replace("_group", " group") + ("s" if len(rows) > 1 else "")
    names = ", ".join(family.labels[row] for row in rows) if family.labels else _ranges(rows)
    return f"{thing} {names}"


def _ranges(numbers: list[int], most: int = 6) -> str:
    """`0-7, 12, 20-21`; beyond `most` stretches, how many there are in all."""
    stretches = []
    for _, run in groupby(enumerate(sorted(numbers)), key=lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        stretches.append(str(members[0]) if len(members) == 1 else f"{members[0]}-{members[-1]}")
    if len(stretches) <= most:
        return ", ".join(stretches)
    return f"{', '.join(stretches[:most])}, ... ({len(numbers)} in all)"
