"""What one more expert for every token buys, where experts have a capacity."""

from collections.abc import MutableMapping, Sequence
from functools import partial

import torch
from torch import Tensor

from lp_routing.certificate.prices import Prices
from lp_routing.certificate.ties import token_prices
from lp_routing.frontier.certified import Certified
from lp_routing.frontier.refine import Family, Point, refined
from lp_routing.problem.bounds import at_most
from lp_routing.problem.problem import RoutingProblem
from lp_routing.solvers import Solver
from lp_routing.validation import Scores, as_scores, whole


def over_k(
    scores: Scores,
    capacity: int,
    *,
    points: int | None = 20,
    at: Sequence[int] = (),
    solver: Solver | None = None,
    kept: MutableMapping[int, Point] | None = None,
) -> Certified:
    """The best value of every K: each token at most K experts, each expert at most C tokens.

    From 0 to where more changes nothing: there every expert has the C tokens it is best for.

    Args:
        scores: (T, E), what each pair is worth; -inf forbids one.
        capacity: C, tokens per expert.
        points: how many K are solved at most; None for as many as it takes to prove all.
        at: numbers of experts that are solved beside these.
        solver: who solves; left out, `Pricing`.
        kept: points of the same curve that were solved before, by budget, such as those of a run
            that was killed; each that is solved now is added as it comes.

    Returns:
        The curve in units of score; its prices are those of one more expert for every token.

    Raises:
        InputError: bad scores, capacity or points.

    The dual bound at fixed prices of experts and tokens is linear in K: its slope is the sum of the
    tokens' prices. Neither end costs a solve.
    """
    values = as_scores(scores)
    capacity = whole(capacity, "capacity", 0)
    family = Family(partial(_with_experts, values, capacity), _of_all_tokens, solver, kept)
    last = _last(RoutingProblem(values), capacity)
    first = Point(0, 0.0, 0.0, float(values.amax(1).double().clamp(min=0).sum()))
    return refined(family, (last if last.budget == 0 else first, last), points, at)


def _with_experts(scores: Tensor, C: int, K: int) -> RoutingProblem:
    return RoutingProblem(scores, tokens=at_most(K), experts=at_most(C))


def _of_all_tokens(problem: RoutingProblem, prices: Prices) -> float:
    """The price of one more expert for every token."""
    return float(token_prices(problem, prices).sum())


def _last(free: RoutingProblem, C: int) -> Point:
    """Every expert's C best tokens, at the largest number of experts that a token has of them."""
    C = min(C, free.T)
    best = free.scores.topk(C, dim=0)
    taken = best.values > 0
    experts = torch.bincount(best.indices[taken], minlength=free.T)
    value = float(best.values[taken].double().sum())
    return Point(int(experts.max()), value, value, 0.0)
