"""The optimal value over a budget, one function for each: total pairs, capacity, K, experts kept.

Over the total, sorted scores suffice where only tokens are bounded. Elsewhere some budgets are
solved, and `frontier.curves` says what their values and prices prove between them.
"""

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lp_routing.certificate.prices import Prices
from lp_routing.certificate.ties import token_prices
from lp_routing.display import as_html, as_text, data_frame
from lp_routing.errors import InputError
from lp_routing.extensions import best_kept, bound_on_kept, greedy
from lp_routing.frontier.curves import CertifiedCurve, ExactCurve
from lp_routing.frontier.refine import (
    BudgetFamily,
    Point,
    at_budgets,
    point_of,
    refined,
    solved,
)
from lp_routing.problem.bounds import Bounds, at_most, exactly
from lp_routing.problem.constraints import Family
from lp_routing.problem.problem import RoutingProblem
from lp_routing.solvers import Solver
from lp_routing.solvers.infeasibility import explain
from lp_routing.solvers.solve import Solution, Status, solve
from lp_routing.validation import (
    Scores,
    as_bool,
    as_float,
    as_int,
    as_rising,
    as_scores,
)

if TYPE_CHECKING:
    import pandas

NEVER = float("-inf")


def over_total(
    problem: RoutingProblem, *, points: int | None = 20, solver: Solver | None = None
) -> ExactCurve | CertifiedCurve:
    """The best value of exactly N pairs, for every N that has an assignment.

    Args:
        problem: the problem without a bound on the total, which varies.
        points: where experts or groups are bounded, the most budgets that are solved, next where
            the gap is largest; None to go on until all are proved.
        solver: finds each optimum; left out, `MinCostFlow` where optima are whole, HiGHS elsewhere.

    Returns:
        `ExactCurve`, exact at every budget, where nothing or only tokens are bounded: from the sum
        of their lower bounds to that of their upper bounds. The next pair is always the best that
        is left, as in USMoE's flattened top-N (Do et al. 2025). Elsewhere `CertifiedCurve`, with
        the prices of a pair.

    Raises:
        InputError: a bound on the total; bounds of tokens that are not whole, or ask for more than
            a token may have; no assignment at all.

    Cost of the exact curve: one sort of the scores, or of what bounds on tokens leave of them.

    Example:
        >>> curve = lpr.frontier.over_total(lpr.RoutingProblem([[3, 1], [2, 1]]))
        >>> curve
        ExactCurve(first=0, last=4, value=0..7)
        >>> curve.value(2.5).item()
        5.5
    """
    if not isinstance(problem, RoutingProblem):
        raise InputError(f"over_total expects a RoutingProblem, got {type(problem).__name__}.")
    if problem.family("total") is not None:
        raise InputError("over_total: the total is what varies; leave its bound out.")
    if any(family.kind != "token" for family in problem.families):
        return _solved_at(problem, points, solver)
    units = _units(problem)
    return ExactCurve(units.start, _falling(units.values), units.first)


class _Units(NamedTuple):
    """The pairs that lower bounds force: `first`, worth `start`; and the scores of all others."""

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
    """Values that are not -inf, the largest first; float32 where that is exact."""
    values = values if values.dtype in (torch.float32, torch.float64) else values.float()
    if values.device.type == "cpu":  # numpy sorts floats several times as fast as torch
        rising = torch.from_numpy(np.sort(values.numpy()))
    else:
        rising = values.sort().values
    forbidden = int(torch.searchsorted(rising, rising.new_tensor(NEVER), right=True))
    return rising[forbidden:].flip(0)


def _solved_at(
    problem: RoutingProblem, points: int | None, solver: Solver | None
) -> CertifiedCurve:
    family = BudgetFamily(partial(_with_total, problem), _of_a_pair, solver)
    first, last = (_extreme(problem, sign) for sign in (-1.0, 1.0))
    low = solved(family, first)
    return refined(family, (low, low if first == last else solved(family, last)), points)


def _with_total(problem: RoutingProblem, n: int) -> RoutingProblem:
    amount = torch.tensor([float(n)], dtype=torch.float64, device=problem.scores.device)
    return problem.with_families((*problem.families, Family("total", amount, amount)))


def _of_a_pair(problem: RoutingProblem, prices: Prices) -> float:  # noqa: ARG001
    return prices.total


def _extreme(problem: RoutingProblem, sign: float) -> int:
    """The fewest (sign -1) or the most (sign 1) pairs that the bounds allow."""
    counted = torch.full_like(problem.scores, sign).masked_fill_(~problem.allowed, NEVER)
    solution = solve(problem.with_scores(counted))
    if solution.status is not Status.OPTIMAL:
        raise InputError(f"over_total: {solution.status.name}: {solution.explanation}")
    return round(sign * float(solution.value))


def over_capacity(
    scores: Scores,
    k: int,
    *,
    points: int | None = 20,
    at: Sequence[int] = (),
    budgets: Sequence[int] | None = None,
    serve: bool = False,
    solver: Solver | None = None,
    kept: MutableMapping[int, Point] | None = None,
) -> CertifiedCurve:
    """The best value of every capacity C: each expert at most C tokens, each token at most k.

    From the least feasible C to the largest load of token choice, beyond which nothing changes.

    Args:
        scores: (T, E), what each pair is worth; -inf forbids one.
        k: experts per token.
        points: the most capacities that are solved, next where the gap is largest; None to go on
            until all are proved.
        at: capacities that are solved in addition, such as the one in use and its neighbours, so
            that its shadow prices are exact.
        budgets: solve exactly these capacities, rising, and ignore `points`.
        serve: every token gets exactly k experts, not at most.
        solver: finds each optimum; left out, `MinCostFlow`.
        kept: points of the same curve that were solved before, by budget, such as those of a run
            that was killed; points solved now are added at once.

    Returns:
        The curve in units of score; its prices are those of one more slot at every expert.

    Raises:
        InputError: bad scores, k, points or budgets; with `serve`, a token that may not go to k
            experts, or a budget too small to serve all.

    The dual bound at fixed prices p is linear in C, of slope sum_j p_j. Without `serve` neither end
    needs a solve: with C = 0 the value is 0, at the last C it is that of token choice.

    Example:
        >>> curve = lpr.frontier.over_capacity([[3, 1], [2, 1]], k=1)
        >>> curve
        CertifiedCurve(gap=0, first=0, last=2, points=3, value=0..5)
        >>> curve.to_frame()[["budget", "value"]].values.tolist()
        [[0.0, 0.0], [1.0, 4.0], [2.0, 5.0]]
    """
    values = as_scores(scores)
    k = as_int(k, "k", 1, values.shape[1], "E, the number of experts")
    tokens = exactly(k) if as_bool(serve, "serve") else at_most(k)
    family = BudgetFamily(partial(_with_slots, values, tokens), _of_all_slots, solver, kept)
    if budgets is not None:
        return at_budgets(family, budgets)
    free = RoutingProblem(values, tokens=tokens)
    last = _last(free, k, serve)
    first = _first_that_serves(family, k, last.budget) if serve else _no_slot(values)
    return refined(family, (last if first.budget == last.budget else first, last), points, at)


def capacity_point(solution: Solution, C: int) -> Point:
    """The point of a problem with capacity C that is solved already, for `kept` of `over_capacity`.

    Raises:
        InputError: a solution without an assignment or without prices.
    """
    return point_of(C, solution, _of_all_slots)


def _with_slots(scores: Tensor, tokens: Bounds, C: int) -> RoutingProblem:
    return RoutingProblem(scores, tokens=tokens, experts=at_most(C))


def _of_all_slots(problem: RoutingProblem, prices: Prices) -> float:
    """The price of one more slot at every expert."""
    experts = problem.family("expert")
    return 0.0 if experts is None else float(prices.of(experts).sum())


def _no_slot(scores: Tensor) -> Point:
    """The point C = 0, of value 0; the price of an expert's slot is its best score."""
    best = scores.amax(0).double().clamp(min=0)
    return Point(0, 0.0, 0.0, float(best.sum()))


def _last(free: RoutingProblem, k: int, serve: bool) -> Point:
    """The point where token choice fits: each token's k best, at their largest load."""
    value, load = 0.0, torch.zeros(free.E, dtype=torch.int64, device=free.scores.device)
    for rows in free.row_chunks():
        best = free.scores[rows].topk(k, dim=1)
        taken = torch.ones_like(best.values, dtype=torch.bool) if serve else best.values > 0
        value += float(best.values.double()[taken].sum())
        load += torch.bincount(best.indices[taken], minlength=free.E)
    if value == float("-inf"):
        raise InputError(f"serve: some token may go to fewer than k={k} experts.")
    return Point(int(load.max()), value, value, 0.0)


def _first_that_serves(family: BudgetFamily, k: int, last: int) -> Point:
    """The point of the least capacity at which every token has k experts; `last` is feasible."""
    T, E = family.problem_at(last).scores.shape
    low, high = -(-T * k // E) - 1, last  # fewer slots than pairs are infeasible
    if explain(family.problem_at(low + 1)) is None:
        return solved(family, low + 1)
    while high - low > 1:
        middle = (low + high) // 2
        clash = explain(family.problem_at(middle))
        low, high = (low, middle) if clash is None else (middle, high)
    return solved(family, high)


def over_k(
    scores: Scores,
    capacity: int,
    *,
    points: int | None = 20,
    at: Sequence[int] = (),
    solver: Solver | None = None,
    kept: MutableMapping[int, Point] | None = None,
) -> CertifiedCurve:
    """The best value of every K: each token at most K experts, each expert at most C tokens.

    From 0 to the K beyond which nothing changes, as every expert has its C best tokens.

    Args:
        scores: (T, E), what each pair is worth; -inf forbids one.
        capacity: C, tokens per expert.
        points: the most K that are solved; None to go on until all are proved.
        at: numbers of experts that are solved in addition.
        solver: finds each optimum; left out, `MinCostFlow`.
        kept: points of the same curve that were solved before, by budget, such as those of a run
            that was killed; points solved now are added at once.

    Returns:
        The curve in units of score; its prices are those of one more expert for every token.

    Raises:
        InputError: bad scores, capacity or points.

    The dual bound at fixed prices of experts and tokens is linear in K: its slope is the sum of the
    tokens' prices. Neither end needs a solve.

    Example:
        >>> lpr.frontier.over_k([[3, 1], [2, 1]], capacity=1).values.tolist()
        [0.0, 4.0, 4.0]
    """
    values = as_scores(scores)
    capacity = as_int(capacity, "capacity", 0)
    family = BudgetFamily(partial(_with_experts, values, capacity), _of_all_tokens, solver, kept)
    last = _all_experts(RoutingProblem(values), capacity)
    first = Point(0, 0.0, 0.0, float(values.amax(1).double().clamp(min=0).sum()))
    return refined(family, (last if last.budget == 0 else first, last), points, at)


def _with_experts(scores: Tensor, C: int, K: int) -> RoutingProblem:
    return RoutingProblem(scores, tokens=at_most(K), experts=at_most(C))


def _of_all_tokens(problem: RoutingProblem, prices: Prices) -> float:
    """The price of one more expert for every token."""
    return float(token_prices(problem, prices).sum())


def _all_experts(free: RoutingProblem, C: int) -> Point:
    """The last point: every expert's C best tokens, at the largest number of experts of a token."""
    C = min(C, free.T)
    best = free.scores.topk(C, dim=0)
    taken = best.values > 0
    experts = torch.bincount(best.indices[taken], minlength=free.T)
    value = float(best.values[taken].double().sum())
    return Point(int(experts.max()), value, value, 0.0)


MOST = 20
"""Most numbers of experts M that are tried where none are named.

More give a finer curve, each for one search: 1.6 to 2.2 s on 512 tokens of the sample (32 experts).
"""


@dataclass(frozen=True, eq=False)
class SampledCurve:
    """Solved budgets of a curve that rises but need not be concave.

    Attributes:
        budgets: int64 (P,), strictly rising.
        values: float64 (P,), attained.
        bounds: float64 (P,), proved: no choice is worth more.
        choices: boolean (P, E), which experts attain the value.
    """

    budgets: Tensor
    values: Tensor
    bounds: Tensor
    choices: Tensor

    def to_frame(self) -> "pandas.DataFrame":
        """One row for each budget that was tried: budget, value, bound."""
        columns = {
            "budget": self.budgets.cpu().numpy(),
            "value": self.values.cpu().numpy(),
            "bound": self.bounds.cpu().numpy(),
        }
        return data_frame("to_frame")(columns)

    def _shown(self) -> dict[str, object]:
        return {
            "gap": self.gap,
            "budgets": self.budgets,
            "value": f"{float(self.values[0]):.6g}..{float(self.values[-1]):.6g}",
        }

    __repr__ = as_text
    _repr_html_ = as_html

    @property
    def gap(self) -> float:
        """The largest bound - value."""
        return float((self.bounds - self.values).max())

    def smallest(self, value: float) -> tuple[int | None, int | None]:
        """The smallest whole budgets that are (surely enough, surely needed) for a value.

        The first is the least solved budget that attains it; the second is one more than the
        largest solved budget that surely does not. None where there is none among those tried.
        """
        wanted = as_float(value, "value", "a finite number", lambda _: True)
        enough = self.budgets[self.values >= wanted].tolist()
        short = self.budgets[self.bounds < wanted].tolist()
        needed = short[-1] + 1 if short else int(self.budgets[0])
        return enough[0] if enough else None, None if needed > self.budgets[-1] else needed


def over_experts_kept(
    scores: Scores,
    k: int,
    *,
    keeps: Sequence[int] | None = None,
    exact: bool = False,
    time_limit_s: float = 60.0,
) -> SampledCurve:
    """What tokens' k best are worth where only M of E experts are kept, for some M.

    Choosing the M is a facility-location problem, not a linear program with whole optima, and its
    value need not be concave in M: these are certified samples, between which only is known that
    the curve rises.

    Args:
        scores: (T, E) numbers >= 0; -inf for pairs that are worth nothing.
        k: experts per token.
        keeps: numbers of experts M from k to E, rising; left out, all, or 20 evenly spaced.
        exact: search each by HiGHS (`best_kept`, for some thousand tokens), not by `greedy`.
        time_limit_s: of one search.

    Raises:
        InputError: negative scores, NaN, +inf, numbers out of range.

    Example:
        >>> lpr.frontier.over_experts_kept([[3, 1, 0], [2, 1, 4]], k=1).to_frame().value.tolist()
        [5.0, 7.0, 7.0]
    """
    values = as_scores(scores)
    RoutingProblem(values)  # refuses sums beyond float64
    E = values.shape[1]
    k = as_int(k, "k", 1, E, "E, the number of experts")
    found = []
    for keep in _tried(keeps, k, E):
        if as_bool(exact, "exact"):
            found.append((keep, best_kept(values, keep, k, time_limit_s=time_limit_s)))
        else:
            found.append((keep, greedy(values, keep, k)))
    bounds = [
        each.bound if exact else min(each.bound, bound_on_kept(values, keep, k))
        for keep, each in found
    ]
    return SampledCurve(
        torch.tensor([keep for keep, _ in found]),
        torch.tensor([each.value for _, each in found], dtype=torch.float64),
        torch.tensor(bounds, dtype=torch.float64),
        torch.stack([each.x for _, each in found]),
    )


def _tried(keeps: Sequence[int] | None, k: int, E: int) -> list[int]:
    if keeps is None:
        spaced = torch.linspace(k, E, min(MOST, E - k + 1), dtype=torch.float64)
        return sorted({round(n) for n in spaced.tolist()})
    return as_rising(keeps, "keeps", k, E, "E, the number of experts")
