"""What the capacity of an expert buys."""

from collections.abc import MutableMapping, Sequence
from functools import partial

import torch
from torch import Tensor

from lp_routing.certificate.prices import Prices
from lp_routing.errors import InputError
from lp_routing.frontier.certified import Certified
from lp_routing.frontier.refine import Family, Point, at_budgets, refined, solved
from lp_routing.problem.bounds import Bounds, at_most, exactly
from lp_routing.problem.problem import RoutingProblem
from lp_routing.solvers import Solver
from lp_routing.solvers.infeasibility import explain
from lp_routing.validation import Scores, as_scores, flag, whole


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
) -> Certified:
    """The best value of every capacity C: each expert at most C tokens, each token at most k.

    From the least C that has an assignment to where more changes nothing: there token choice fits.

    Args:
        scores: (T, E), what each pair is worth; -inf forbids one.
        k: experts per token.
        points: how many capacities are solved at most, where least is proved; None for as many as
            it takes to prove all of them.
        at: capacities that are solved beside these, such as the one in use and its neighbours, so
            that its shadow prices are exact.
        budgets: these capacities, rising, and no others; `points` is not asked then.
        serve: every token gets exactly k experts, not at most.
        solver: who solves; left out, `Pricing`.
        kept: points of the same curve that were solved before, by budget, such as those of a run
            that was killed; each that is solved now is added as it comes.

    Returns:
        The curve in units of score; its prices are those of one more slot at every expert.

    Raises:
        InputError: bad scores, k, points or budgets; with `serve`, a token that may not go to k
            experts, or a budget too small to serve all.

    The dual bound at fixed prices p is linear in C, of slope sum_j p_j. Neither end costs a solve
    where tokens may go without: no slot is worth nothing, and there all may go where they like.
    """
    values = as_scores(scores)
    k = whole(k, "k", 1, values.shape[1], "E, the number of experts")
    tokens = exactly(k) if flag(serve, "serve") else at_most(k)
    family = Family(partial(_with_slots, values, tokens), _of_all_slots, solver, kept)
    if budgets is not None:
        return at_budgets(family, budgets)
    free = RoutingProblem(values, tokens=tokens)
    last = _last(free, k, serve)
    first = _first_that_serves(family, k, last.budget) if serve else _no_slot(values)
    return refined(family, (last if first.budget == last.budget else first, last), points, at)


def _with_slots(scores: Tensor, tokens: Bounds, C: int) -> RoutingProblem:
    return RoutingProblem(scores, tokens=tokens, experts=at_most(C))


def _of_all_slots(problem: RoutingProblem, prices: Prices) -> float:
    """The price of one more slot at every expert."""
    experts = problem.family("expert")
    return 0.0 if experts is None else float(prices.of(experts).sum())


def _no_slot(scores: Tensor) -> Point:
    """Nothing goes anywhere; a slot at j brings at most j's best score."""
    best = scores.amax(0).double().clamp(min=0)
    return Point(0, 0.0, 0.0, float(best.sum()))


def _last(free: RoutingProblem, k: int, serve: bool) -> Point:
    """Every token's k best, at the largest load that they make."""
    value, load = 0.0, torch.zeros(free.E, dtype=torch.int64, device=free.scores.device)
    for rows in free.row_chunks():
        best = free.scores[rows].topk(k, dim=1)
        taken = torch.ones_like(best.values, dtype=torch.bool) if serve else best.values > 0
        value += float(best.values.double()[taken].sum())
        load += torch.bincount(best.indices[taken], minlength=free.E)
    if value == float("-inf"):
        raise InputError(f"serve: some token may go to fewer than k={k} experts.")
    return Point(int(load.max()), value, value, 0.0)


def _first_that_serves(family: Family, k: int, last: int) -> Point:
    """The least capacity that serves every token; `last` does."""
    T, E = family.problem_at(last).scores.shape
    low, high = -(-T * k // E) - 1, last  # fewer slots than pairs serve nobody
    if explain(family.problem_at(low + 1)) is None:
        return solved(family, low + 1)
    while high - low > 1:
        middle = (low + high) // 2
        clash = explain(family.problem_at(middle))
        low, high = (low, middle) if clash is None else (middle, high)
    return solved(family, high)
