"""What the number of experts that are kept buys."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.extensions import best_kept, bound_on_kept, greedy
from lp_routing.problem.problem import RoutingProblem
from lp_routing.validation import Scores, as_scores, flag, number, whole

MOST = 20
"""Numbers of experts that are tried where none are named."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Budgets that were tried, of a curve that rises but need not be concave.

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

    @property
    def gap(self) -> float:
        """The largest bound - value."""
        return float((self.bounds - self.values).max())

    def smallest(self, value: float) -> tuple[int | None, int | None]:
        """The smallest whole budgets that are (surely enough, surely needed) for a value.

        The first is the least that was tried and attains it; the second is one more than the
        largest that was tried and surely does not. None where there is none among those tried.
        """
        wanted = number(value, "value", "a finite number", lambda _: True)
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
) -> Samples:
    """What tokens' k best are worth where only M of E experts are kept, for some M.

    Choosing the M is a facility-location problem, not a linear program with whole optima, and its
    value need not be concave in M: these are certified samples, nothing is claimed between them but
    that the curve rises.

    Args:
        scores: (T, E) numbers >= 0; -inf for pairs that are worth nothing.
        k: experts per token.
        keeps: numbers of experts M from k to E, rising; left out, all, or 20 evenly spaced.
        exact: search each by HiGHS (`best_kept`, for some thousand tokens), not by `greedy`.
        time_limit_s: of one search.

    Raises:
        InputError: negative scores, NaN, +inf, numbers out of range.
    """
    values = as_scores(scores)
    RoutingProblem(values)  # sums beyond float64 are refused there
    E = values.shape[1]
    k = whole(k, "k", 1, E, "E, the number of experts")
    found = []
    for keep in _tried(keeps, k, E):
        if flag(exact, "exact"):
            found.append((keep, best_kept(values, keep, k, time_limit_s=time_limit_s)))
        else:
            found.append((keep, greedy(values, keep, k)))
    bounds = [
        each.bound if exact else min(each.bound, bound_on_kept(values, keep, k))
        for keep, each in found
    ]
    return Samples(
        torch.tensor([keep for keep, _ in found]),
        torch.tensor([each.value for _, each in found], dtype=torch.float64),
        torch.tensor(bounds, dtype=torch.float64),
        torch.stack([each.x for _, each in found]),
    )


def _tried(keeps: Sequence[int] | None, k: int, E: int) -> list[int]:
    if keeps is None:
        spaced = torch.linspace(k, E, min(MOST, E - k + 1), dtype=torch.float64)
        return sorted({round(n) for n in spaced.tolist()})
    given = [whole(n, "keeps", k, E, "E, the number of experts") for n in keeps]
    if not given or sorted(set(given)) != given:
        raise InputError(f"keeps: expected whole numbers that rise, got {list(keeps)}.")
    return given
