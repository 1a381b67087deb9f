"""Experts of unequal cost under a budget: the LP by one price, whole choices within one exchange.

    maximise    sum_ij s_ij x_ij
    subject to  sum_j x_ij = k for each token,  sum_ij c_j x_ij <= B,  0 <= x_ij <= 1

The cost row is a knapsack constraint. MoE++ (Jin et al. 2024) has experts that compute nothing
(cost 0) beside those that do. With two different costs the row counts the costly pairs, and the LP
has whole optima (with B rounded down to a cost that can occur). With three it need not: for one
token, costs (0, 1, 2), scores (0, 0, 1) and B = 1 the LP's value is 1/2, the whole-number optimum
0.

At a price p of cost every token takes its k best of s - p c, and

    bound(p) = p B + sum_i (the k largest of s_i - p c),   p >= 0,

is an upper bound (weak duality) whose minimum is the LP's value. It is convex and piecewise linear,
one piece for each choice, of slope B minus the choice's cost. The pieces of a choice within the
budget and of one beyond it cross at a price; the best choice at this price replaces one of the two,
until no piece is below the crossing, which is the minimum. Then single experts are exchanged from
the first choice to the second while the budget lasts. The LP splits at most one such exchange, so
the whole choice loses at most what that exchange gains.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from lp_routing.certificate.violations import ROUNDING
from lp_routing.errors import InputError
from lp_routing.routers.selection import largest
from lp_routing.solvers.highs import BoundedChoice, search
from lp_routing.validation import (
    Scores,
    as_bool,
    as_int,
    as_reals,
    as_scores,
    refuse_nan_and_inf,
)

STEPS = 100
"""Most prices tried, one `topk` each: more tighten the bound, which holds at any of them.

On the sample (1,024 tokens, k = 2, random costs) the search ends by itself within 10.
"""

Costs = Tensor | Sequence[float]


@dataclass(frozen=True, eq=False)
class BudgetedChoice(BoundedChoice):
    """A choice within a budget of cost, with the price that proves how good it is.

    Attributes:
        price: p >= 0, score per unit of cost; `bound` is the bound at this price.
        cost: of the choice.
        budget: B.
    """

    price: float
    cost: float
    budget: float


def within_budget(scores: Scores, k: int, costs: Costs, budget: float) -> BudgetedChoice:
    """k experts per token at a total cost of at most B, by one price; x boolean (T, E).

    The bound is the LP's value, up to the rounding of the price, and needs no solver. Ties at a
    price go to the lower expert, and the remaining budget to the tokens that gain most for their
    cost.

    Args:
        scores: (T, E); -inf forbids a pair.
        k: experts per token.
        costs: (E,) finite numbers >= 0, in any unit.
        budget: B, in that unit.

    Raises:
        InputError: bad scores, costs or budget; a token with fewer than k allowed experts; a budget
            below the cost of the cheapest experts.

    Cost: one `topk` over the experts for each price that is tried.

    Example:
        >>> scores, costs = [[9.0, 5.0], [8.0, 6.0]], [2, 1]
        >>> found = lpr.extensions.within_budget(scores, k=1, costs=costs, budget=3)
        >>> found.value, found.bound
        (15.0, 15.0)
    """
    values, cost, limit = _checked(scores, k, costs, budget)
    budget, words = float(budget), "weak duality with one price"
    costly = _taken(values, k, cost, 0.0)
    if costly.cost <= limit:
        return BudgetedChoice(costly.x, costly.worth, costly.worth, words, 0.0, costly.cost, budget)
    cheap = _taken(values, k, cost, _prohibitive(values, cost))
    best = (float("inf"), 0.0)
    for _ in range(STEPS):
        price = max((costly.worth - cheap.worth) / (costly.cost - cheap.cost), 0.0)
        taken = _taken(values, k, cost, price)
        least, bound = cheap.bound(price, budget), taken.bound(price, budget)
        best = min(best, (bound, price))
        if bound <= least + ROUNDING * max(abs(least), abs(costly.worth)):
            break
        cheap, costly = (taken, costly) if taken.cost <= limit else (cheap, taken)
    x = _improved(values, cheap, costly, cost, limit)
    return BudgetedChoice(x, _worth(values, x), best[0], words, best[1], _total(x, cost), budget)


def searched_within_budget(
    scores: Scores,
    k: int,
    costs: Costs,
    budget: float,
    *,
    integral: bool = True,
    time_limit_s: float = 60.0,
) -> BoundedChoice:
    """The same by HiGHS: branch and bound, or with integral=False the LP; x (T, E).

    For some thousand pairs.

    Raises:
        InputError: as `within_budget`; nothing found in time.

    Example:
        >>> scores, costs = [[9.0, 5.0], [8.0, 6.0]], [2, 1]
        >>> lpr.extensions.searched_within_budget(scores, k=1, costs=costs, budget=3).value
        15.0
    """
    values, cost, limit = _checked(scores, k, costs, budget)
    T, E = values.shape
    table = values.cpu().numpy()
    allowed = np.isfinite(table).reshape(-1)
    spent = np.tile(cost.cpu().numpy(), T)
    found = search(
        np.where(allowed, table.reshape(-1), 0.0),
        sparse.vstack([sparse.kron(sparse.identity(T), np.ones((1, E))), sparse.csr_matrix(spent)]),
        np.append(np.full(T, float(k)), -np.inf),
        np.append(np.full(T, float(k)), limit),
        column_upper=allowed.astype(float),
        whole=np.full(T * E, float(as_bool(integral, "integral"))),
        time_limit_s=time_limit_s,
    )
    x = torch.as_tensor(found.x.reshape(T, E)).to(values.device)
    x = x > 0.5 if integral else x
    value = _worth(values, x)
    return BoundedChoice(x, value, max(found.bound, value), found.ended)


def _checked(scores: Scores, k: int, costs: Costs, budget: float) -> tuple[Tensor, Tensor, float]:
    """Scores float64 (T, E), costs float64 (E,), and the budget with room for rounding."""
    values = as_scores(scores).double()
    refuse_nan_and_inf(values, "scores")
    T, E = values.shape
    k = as_int(k, "k", 1, E, "E, the number of experts")
    cost = as_reals(costs, "costs", "numbers, one per expert").to(values.device)
    if tuple(cost.shape) != (E,) or not bool((cost.isfinite() & (cost >= 0)).all()):
        raise InputError(
            f"costs: expected {E} finite numbers >= 0, one per expert, got {costs!r} of shape "
            f"{tuple(cost.shape)}."
        )
    if isinstance(budget, bool) or not isinstance(budget, Real) or not 0 <= budget < float("inf"):
        raise InputError(f"budget={budget!r}: expected a finite number >= 0, in units of cost.")
    allowed = values > float("-inf")
    if bool((allowed.sum(-1) < k).any()):
        i = int((allowed.sum(-1) < k).nonzero()[0])
        raise InputError(
            f"scores: token {i} has {int(allowed[i].sum())} allowed experts, fewer than k={k}."
        )
    spend = cost.expand(T, E).masked_fill(~allowed, float("inf"))
    least = float(spend.topk(k, largest=False).values.sum())
    limit = float(budget) + ROUNDING * max(float(budget), least)
    if least > limit:
        raise InputError(
            f"budget={budget:g}: the {k} cheapest experts of each token cost {least:g} already; "
            f"give at least that."
        )
    return values, cost, limit


def _prohibitive(values: Tensor, cost: Tensor) -> float:
    """A price at which the cheaper of two experts is always preferred."""
    finite = values[values > float("-inf")]
    steps = torch.unique(cost).diff()
    return 2 * float(finite.max() - finite.min()) / float(steps.min()) or 1.0


class ChoiceAtPrice(NamedTuple):
    """What tokens take at some price: pairs boolean (T, E), their score and their cost."""

    x: Tensor
    worth: float
    cost: float

    def bound(self, price: float, budget: float) -> float:
        """The linear piece of bound(p) of this choice."""
        return self.worth + price * (budget - self.cost)


def _taken(values: Tensor, k: int, cost: Tensor, price: float) -> ChoiceAtPrice:
    x = largest(values - price * cost, k)
    return ChoiceAtPrice(x, _worth(values, x), _total(x, cost))


def _total(x: Tensor, cost: Tensor) -> float:
    return float(x.sum(0).double() @ cost)


def _worth(values: Tensor, x: Tensor) -> float:
    if x.dtype == torch.bool:
        return float(values.where(x, 0.0).sum())
    return float((values.masked_fill(x == 0, 0.0) * x).sum())


def _improved(
    values: Tensor, cheap: ChoiceAtPrice, costly: ChoiceAtPrice, cost: Tensor, limit: float
) -> Tensor:
    """The cheap choice with experts exchanged for the costly one's, most gain per cost first."""
    exchanges, price_of = [], cost.tolist()
    for i in (cheap.x != costly.x).any(-1).nonzero().flatten().tolist():
        low, high = cheap.x[i], costly.x[i]
        out, into = (
            sorted(some.nonzero().flatten().tolist(), key=price_of.__getitem__)
            for some in (low & ~high, high & ~low)
        )
        for a, b in zip(out, into, strict=True):
            gain, dearer = float(values[i, b] - values[i, a]), price_of[b] - price_of[a]
            if gain > 0 and dearer > 0:
                exchanges.append((-gain / dearer, i, a, b, dearer))
    x, left = cheap.x.clone(), limit - cheap.cost
    for _, i, a, b, dearer in sorted(exchanges):
        if dearer <= left:
            left -= dearer
            x[i, a], x[i, b] = False, True
    return x
