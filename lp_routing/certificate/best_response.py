"""Each token's best response to given prices: the inner problem of the dual.

Row i earns a_ij = s_ij - p_ij on each of its m_i units of expert j. It takes its best entries
first: t- of them in any case, then those that earn more than 0, up to t+ in all. Rows are read in
chunks, so memory does not grow with T.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lp_routing.certificate.prices import PairPrices
from lp_routing.problem.problem import RoutingProblem

Ranking = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]

FEW = 2
"""Up to this many ranks are found by repeated maxima, one pass each, more by `topk`.

16,384 tokens x 32 experts on one core: 2.7 ms for 2 ranks against 6.3 ms by `topk`; with 256
experts or more ranks both take about as long.
"""


@dataclass(frozen=True, eq=False)
class Response:
    """The best response of some rows; axis R ranks a row's experts, best first.

    Attributes:
        rows: which rows of the problem.
        matrix: (n, E), the scores of these rows as they are.
        ranked: False where rows have no upper bound, so that each takes whatever earns more than 0;
            the experts are then in index order.
        experts: (n, R) expert of each rank.
        scores: float64 (n, R) score of each rank, 0 where forbidden.
        prices: float64 (n, R) price of each rank.
        earned: float64 (n, R) score minus price, -inf where forbidden.
        units: float64 (n, 1), the row's multiplicity.
        least: float64 (n, 1), the smallest amount that is optimal for the row.
        most: float64 (n, 1), the largest amount that is optimal for the row.
        must: float64 (n, 1), its lower bound.
        may: float64 (n, 1), its upper bound, or all its allowed pairs where that is less.
    """

    rows: slice
    matrix: Tensor
    ranked: bool
    experts: Tensor
    scores: Tensor
    prices: Tensor
    earned: Tensor
    units: Tensor
    least: Tensor
    most: Tensor
    must: Tensor
    may: Tensor

    @property
    def amounts(self) -> Tensor:
        """Float64 (n, R): how much of each rank the row takes (the least optimal amount)."""
        if not self.ranked:
            return self.units * (self.earned > 0)
        ranks = torch.arange(self.earned.shape[1], dtype=torch.float64, device=self.earned.device)
        return torch.minimum((self.least - self.units * ranks).clamp(min=0), self.units)

    @property
    def possible(self) -> bool:
        """Whether every row has enough allowed pairs for its lower bound."""
        return bool((self.must <= self.may).all())


def best_response(
    problem: RoutingProblem,
    paid: PairPrices,
    *,
    all_ranks: bool = False,
    exact_order: bool = False,
    tolerance: float = 0.0,
) -> Iterator[Response]:
    """Every row's best response to what the pairs pay, chunk by chunk.

    Args:
        problem: its token rows, multiplicity and scores are used; its other bounds are not.
        paid: prices of pairs, from everything but token rows.
        all_ranks: rank all E experts, not only those that a row may take.
        exact_order: rank by the exact difference of score and price where rounding would tie.
        tolerance: earnings this close to 0 count as 0 in `least` and `most`.
    """
    if not problem.T:  # an empty shard of a process group
        return
    lower, upper = problem.token_bounds()
    copies = problem.copies()
    ranks = problem.E if all_ranks else math.ceil(min(problem.E, float((upper / copies).max())))
    ranking = _ranking(problem, ranks, all_ranks, exact_order)
    for rows in problem.row_chunks():
        scores = problem.scores[rows]
        units, must = copies[rows, None], lower[rows, None]
        may = torch.minimum(upper[rows, None], units * problem.allowed_per_token[rows, None])
        yield _response(rows, scores, paid.of(rows), ranking, ranks, units, must, may, tolerance)


def _ranking(
    problem: RoutingProblem, ranks: int, all_ranks: bool, exact_order: bool
) -> Ranking | None:
    """How to find each row's best experts; None where rows have no upper bound."""
    if problem.family("token") is None and not all_ranks:
        return None
    if exact_order:
        return _exactly_best
    return _few_best if 0 < ranks <= FEW and not all_ranks else _best


def _response(
    rows: slice,
    scores: Tensor,
    paid: Tensor,
    ranking: Ranking | None,
    ranks: int,
    units: Tensor,
    must: Tensor,
    may: Tensor,
    tolerance: float,
) -> Response:
    """The best response of some rows; all tensors are theirs, as `Response` has them."""
    matrix = scores
    if ranking is None:
        experts = torch.arange(scores.shape[1], device=scores.device).expand(scores.shape)
        earned = scores - paid
    else:
        earned, experts = ranking(scores, paid, ranks)
        scores, paid = scores.gather(1, experts), paid.gather(1, experts)
    above = units * (earned > tolerance).sum(1, keepdim=True)
    at_least_zero = units * (earned >= -tolerance).sum(1, keepdim=True)
    return Response(
        rows=rows,
        matrix=matrix,
        ranked=ranking is not None,
        experts=experts,
        scores=scores.double().nan_to_num(neginf=0.0),
        prices=paid,
        earned=earned,
        units=units,
        least=torch.maximum(torch.minimum(above, may), must),
        most=torch.maximum(torch.minimum(at_least_zero, may), must),
        must=must,
        may=may,
    )


def _best(scores: Tensor, paid: Tensor, ranks: int) -> tuple[Tensor, Tensor]:
    """The `ranks` best entries of `scores - paid` (n, E), best first: earnings and experts.

    Differences are float64, as prices are, whatever the scores are.
    """
    best = torch.topk(scores - paid, ranks, dim=1)
    return best.values, best.indices


def _few_best(scores: Tensor, paid: Tensor, ranks: int) -> tuple[Tensor, Tensor]:
    """As `_best`, by repeated maxima, which is faster for few ranks.

    Where a row allows fewer than `ranks` pairs, the remaining entries are -inf with arbitrary
    experts.
    """
    return largest_in_turn(scores - paid, ranks)


def largest_in_turn(entries: Tensor, ranks: int) -> tuple[Tensor, Tensor]:
    """The `ranks` largest entries of each row (n, E) and their columns, on ties the first.

    `entries` is overwritten. After the finite ones come -inf and arbitrary columns.
    """
    found: list[torch.return_types.max] = []
    for rank in range(ranks):
        if rank:
            entries.scatter_(1, found[-1].indices, float("-inf"))
        found.append(entries.max(1, keepdim=True))
    return torch.cat([f.values for f in found], 1), torch.cat([f.indices for f in found], 1)


def _exactly_best(scores: Tensor, paid: Tensor, ranks: int) -> tuple[Tensor, Tensor]:
    """As `_best`, ranked by the exact differences.

    Rounding is monotone, so only entries that round to the same number can be out of order; these
    are ranked by the rounding error of the difference, itself a float (Knuth's TwoSum).
    """
    scores = scores.double()
    earned = scores - paid
    step = earned - scores
    error = (scores - (earned - step)) + (-paid - step)
    by_error = torch.sort(error.nan_to_num(), dim=1, descending=True, stable=True).indices
    by_value = torch.sort(earned.gather(1, by_error), dim=1, descending=True, stable=True)
    return by_value.values[:, :ranks], by_error.gather(1, by_value.indices[:, :ranks])
