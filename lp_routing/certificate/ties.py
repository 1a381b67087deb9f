"""Prices of token rows, and the pairs whose score equals their price (where optima differ)."""

import torch
from torch import Tensor

from lp_routing.certificate.best_response import Response, best_response
from lp_routing.certificate.prices import PairPrices, Prices, clipped, pair_prices
from lp_routing.problem.problem import RoutingProblem, check_problem
from lp_routing.validation import as_nonnegative


def token_prices(problem: RoutingProblem, prices: Prices) -> Tensor:
    """The price of each token's row at given prices of everything else, float64 (T,).

    It is what the token's last unit earns, clipped to the sign its bounds allow: one of the optimal
    dual values. At optimal prices a larger bound gains at most this much per unit, and a smaller
    one costs at least this much. Zero where neither bound binds.

    Example:
        >>> problem = lpr.problems.capacity([[3, 1], [2, 1]], k=1, capacity=1)
        >>> lpr.token_prices(problem, lpr.Prices(experts=torch.tensor([1.0, 0.0]))).tolist()
        [2.0, 1.0]
    """
    check_problem(problem, "token_prices")
    _, upper = problem.token_bounds()
    responses = best_response(problem, _pair(problem, prices), all_ranks=True)
    prices_of_chunks = [_slot_price(response, upper[response.rows]) for response in responses]
    return torch.cat([upper[:0], *prices_of_chunks])  # an empty shard has no chunk


def ties(problem: RoutingProblem, prices: Prices, tolerance: float = 0.0) -> Tensor:
    """Pairs that a token may take or leave without loss: indices (n, 2) of (token, expert).

    Args:
        problem: the problem.
        prices: usually optimal ones: optima then differ from each other on these pairs only.
        tolerance: in units of score, the distance from its price within which a pair counts as
            tied; 0 means equality in float64, a solver's prices need about 1e-12.

    Example:
        >>> problem = lpr.problems.capacity([[3, 1], [2, 1]], k=1, capacity=1)
        >>> lpr.ties(problem, lpr.Prices(experts=torch.tensor([1.0, 0.0]))).tolist()
        [[1, 0], [1, 1]]
    """
    check_problem(problem, "ties")
    tolerance = as_nonnegative(tolerance, "ties: tolerance")
    found = [torch.zeros(0, 2, dtype=torch.int64, device=problem.scores.device)]
    pair = _pair(problem, prices)
    for response in best_response(problem, pair, all_ranks=True, tolerance=tolerance):
        last, following = _edge(response)
        free_amount = (response.least < response.most).squeeze(1)
        threshold = torch.where(free_amount, torch.zeros_like(last), last)
        open_row = free_amount | ((last - following).abs() <= tolerance)
        tied = ((response.earned - threshold[:, None]).abs() <= tolerance) & open_row[:, None]
        tied &= (free_amount | (tied.sum(1) > 1))[:, None]  # a single one takes the rest
        rows, ranks = tied.nonzero().T
        found.append(torch.stack([rows + response.rows.start, response.experts[rows, ranks]], 1))
    pairs = torch.cat(found)
    return pairs[torch.argsort(pairs[:, 0] * problem.E + pairs[:, 1])]


def _pair(problem: RoutingProblem, prices: Prices) -> PairPrices:
    return pair_prices(problem, clipped(problem, prices))


def _edge(response: Response) -> tuple[Tensor, Tensor]:
    """Earnings (n,) of the last unit a row takes (inf if none) and of the next (-inf if none)."""
    return _unit(response, -1, float("inf")), _unit(response, 0, float("-inf"))


def _unit(response: Response, offset: int, beyond: float) -> Tensor:
    """What the unit number `least + offset` (from 0) of each row earns."""
    ranks = response.earned.shape[1]
    unit = response.least + offset
    rank = torch.div(unit, response.units, rounding_mode="floor").long()
    if offset < 0:
        rank = torch.div(response.least, response.units).ceil().long() - 1
    outside = (rank < 0) | (rank >= ranks)
    earned = response.earned.gather(1, rank.clamp(0, ranks - 1))
    return earned.masked_fill(outside, beyond).squeeze(1)


def _slot_price(response: Response, upper: Tensor) -> Tensor:
    last, following = _edge(response)
    least, must = response.least.squeeze(1), response.must.squeeze(1)
    price = torch.where(last.isfinite(), last, following.clamp(min=0).nan_to_num(neginf=0))
    at_upper, at_lower = least == upper, least == must
    price = torch.where(at_upper & ~at_lower, price.clamp(min=0), price)
    price = torch.where(at_lower & ~at_upper, price.clamp(max=0), price)
    return torch.where(at_upper | at_lower, price, torch.zeros_like(price))
