"""What pairs in all buy: sorted scores where only tokens are bounded, solved budgets elsewhere."""

from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lp_routing.certificate.prices import Prices
from lp_routing.errors import InputError
from lp_routing.frontier.certified import Certified
from lp_routing.frontier.concave import Concave
from lp_routing.frontier.refine import Family, refined, solved
from lp_routing.problem.constraints import Family as Rows
from lp_routing.problem.problem import RoutingProblem
from lp_routing.solvers import Solver
from lp_routing.solvers.solution import Status
from lp_routing.solvers.solve import solve

NEVER = float("-inf")


def over_total(
    problem: RoutingProblem, *, points: int | None = 20, solver: Solver | None = None
) -> Concave | Certified:
    """The best value of exactly N pairs, for every N that has an assignment.

    Args:
        problem: everything but the total, which varies.
        points: where experts or groups are bounded, how many budgets are solved at most, where
            least is proved; None for as many as it takes to prove all of them.
        solver: who solves these; left out, `Pricing` where optima are whole, HiGHS elsewhere.

    Returns:
        `Concave`, exact at every budget, where tokens alone are bounded, or nothing: from what
        tokens must have to all that they may. Rows that meet in the total alone are merged: the
        next pair is always the best that is left, as in USMoE's flattened top-N (Do et al. 2025).
        Elsewhere `Certified`, whose prices are those of a pair.

    Raises:
        InputError: a bound on the total; bounds of tokens that are not whole, or ask for more than
            a token may have; no assignment at all.

    Cost of the exact curve: one sort of the scores, or of what bounds on tokens leave of them.
    """
    if not isinstance(problem, RoutingProblem):
        raise InputError(f"over_total expects a RoutingProblem, got {type(problem).__name__}.")
    if problem.family("total") is not None:
        raise InputError("over_total: the total is what varies; leave its bound out.")
    if any(family.kind != "token" for family in problem.families):
        return _solved_at(problem, points, solver)
    units = _units(problem)
    return Concave(units.start, _falling(units.values), units.first)


class _Units(NamedTuple):
    """What tokens must have: `first` pairs worth `start`; and what else they may, in any order."""

    first: int
    start: float
    values: Tensor


def _units(problem: RoutingProblem) -> _Units:
    if problem.family("token") is None and problem.multiplicity is None:
        return _Units(0, 0.0, problem.scores.flatten())
    lower, upper = problem.token_bounds()
    copies = problem.copies()
    may = torch.minimum(upper, copies * problem.allowed_per_token)
    _check_whole(lower, may)
    ranks = int((may / copies).ceil().max())
    first, start, rest = 0, 0.0, []
    for rows in problem.row_chunks():
        best = problem.scores[rows].topk(ranks, dim=1).values
        below = copies[rows, None] * torch.arange(ranks, device=best.device)
        least = (lower[rows, None] - below).clamp(min=0).minimum(copies[rows, None])
        most = (may[rows, None] - below).clamp(min=0).minimum(copies[rows, None])
        first += int(least.sum())
        start += float((best.double() * least)[least > 0].sum())
        open_units = (most - least).long()
        rest.append(best[open_units > 0].repeat_interleave(open_units[open_units > 0]))
    return _Units(first, start, torch.cat(rest))


def _check_whole(lower: Tensor, may: Tensor) -> None:
    """Raise unless every token's bounds are whole and can be met."""
    broken = ((lower != lower.round()) | (may != may.round())).nonzero()
    if len(broken):
        raise InputError(
            f"over_total: the bounds of token {int(broken[0])} are not whole; a curve of whole "
            f"pairs needs whole bounds (problem.with_whole_bounds() rounds them inwards)."
        )
    short = (lower > may).nonzero()
    if len(short):
        i = int(short[0])
        raise InputError(
            f"over_total: token {i} must have {float(lower[i]):g} pairs and may have "
            f"{float(may[i]):g}."
        )


def _falling(values: Tensor) -> Tensor:
    """Values that are not -inf, the largest first; float32 where nothing is lost by it."""
    values = values if values.dtype in (torch.float32, torch.float64) else values.float()
    if values.device.type == "cpu":  # numpy sorts floats several times as fast as torch
        rising = torch.from_numpy(np.sort(values.numpy()))
    else:
        rising = values.sort().values
    forbidden = int(torch.searchsorted(rising, rising.new_tensor(NEVER), right=True))
    return rising[forbidden:].flip(0)


def _solved_at(problem: RoutingProblem, points: int | None, solver: Solver | None) -> Certified:
    family = Family(partial(_with_total, problem), _of_a_pair, solver)
    first, last = (_extreme(problem, sign) for sign in (-1.0, 1.0))
    low = solved(family, first)
    return refined(family, (low, low if first == last else solved(family, last)), points)


def _with_total(problem: RoutingProblem, n: int) -> RoutingProblem:
    amount = torch.tensor([float(n)], dtype=torch.float64, device=problem.scores.device)
    return problem.with_families((*problem.families, Rows("total", amount, amount)))


def _of_a_pair(problem: RoutingProblem, prices: Prices) -> float:  # noqa: ARG001
    return prices.total


def _extreme(problem: RoutingProblem, sign: float) -> int:
    """The fewest (sign -1) or the most (sign 1) pairs that the bounds allow."""
    counted = torch.full_like(problem.scores, sign).masked_fill_(~problem.allowed, NEVER)
    solution = solve(problem.with_scores(counted))
    if solution.status is not Status.OPTIMAL:
        raise InputError(f"over_total: {solution.status.name}: {solution.explanation}")
    return round(sign * float(solution.value))
