"""What each token would take, alone, if it paid given prices: the inner problem of the dual.

Row i earns a_ij = s_ij - p_ij on each of its m_i units of expert j. It fills its best entries
first: as many as it must (t-), then those worth more than nothing, up to what it may (t+).
Rows are visited in chunks, so memory stays bounded whatever T is.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lp_routing.problem import RoutingProblem


@dataclass(frozen=True, eq=False)
class Response:
    """The best response of some rows; axis R ranks a row's experts, best first.

    Attributes:
        rows: which rows of the problem.
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
        ranks = torch.arange(self.earned.shape[1], dtype=torch.float64, device=self.earned.device)
        return torch.minimum((self.least - self.units * ranks).clamp(min=0), self.units)

    @property
    def possible(self) -> bool:
        """Whether every row has enough allowed pairs for its lower bound."""
        return bool((self.must <= self.may).all())


def best_response(
    problem: RoutingProblem,
    on_tokens: Tensor,
    on_experts: Tensor,
    *,
    all_ranks: bool = False,
    exact_order: bool = False,
    tolerance: float = 0.0,
) -> Iterator[Response]:
    """Every row's best response at pair prices `on_tokens[i] + on_experts[j]`, chunk by chunk.

    Args:
        problem: its token rows, multiplicity and scores are used; its other bounds are not.
        on_tokens: float64 (T,).
        on_experts: float64 (E,).
        all_ranks: rank all E experts, not only those that a row may take.
        exact_order: rank by the exact difference of score and price where rounding would tie.
        tolerance: earnings this close to 0 count as 0 in `least` and `most`.
    """
    lower, upper = problem.token_bounds()
    copies = problem.copies()
    most_ranks = float((upper / copies).ceil().max())
    ranks = problem.E if all_ranks or exact_order else int(min(problem.E, most_ranks))
    for rows in problem.row_chunks():
        scores = problem.scores[rows].double()
        paid = on_tokens[rows, None] + on_experts
        earned, experts = _ranked(scores, paid, ranks, exact_order)
        allowed = (scores > float("-inf")).sum(1, keepdim=True)
        units, must = copies[rows, None], lower[rows, None]
        may = torch.minimum(upper[rows, None], units * allowed)
        above = units * (earned > tolerance).sum(1, keepdim=True)
        at_least_zero = units * (earned >= -tolerance).sum(1, keepdim=True)
        yield Response(
            rows=rows,
            experts=experts,
            scores=scores.gather(1, experts).nan_to_num(neginf=0.0),
            prices=paid.gather(1, experts),
            earned=earned,
            units=units,
            least=torch.maximum(torch.minimum(above, may), must),
            most=torch.maximum(torch.minimum(at_least_zero, may), must),
            must=must,
            may=may,
        )


def _ranked(scores: Tensor, paid: Tensor, ranks: int, exact_order: bool) -> tuple[Tensor, Tensor]:
    """The `ranks` best entries of `scores - paid` (n, E), best first: earnings and experts."""
    earned = scores - paid
    if not exact_order:
        best = torch.topk(earned, ranks, dim=1)
        return best.values, best.indices
    # Rounding is monotone, so only entries that round to the same number can be out of order;
    # the rounding error of a difference is itself a float (Knuth's TwoSum) and ranks those.
    step = earned - scores
    error = (scores - (earned - step)) + (-paid - step)
    by_error = torch.sort(error.nan_to_num(), dim=1, descending=True, stable=True).indices
    by_value = torch.sort(earned.gather(1, by_error), dim=1, descending=True, stable=True)
    return by_value.values, by_error.gather(1, by_value.indices)
