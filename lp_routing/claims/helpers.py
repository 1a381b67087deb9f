"""What several checks share: tokens, optima, small cases by enumeration, numbers in words."""

import math
from collections.abc import Sequence
from itertools import combinations

from torch import Tensor

from lp_routing.claims.claim import ClaimInput, Evidence, Number
from lp_routing.problem.named import balanced
from lp_routing.problem.problem import RoutingProblem
from lp_routing.solvers.solve import Solution, solve

SLACK = 1e-9
"""Relative to a value: differences up to here count as rounding.

Optima of the sample are certified within 4e-16 of themselves (B1, B3); the rest is room for sums of
more and of cancelling terms.
"""


def equally_shared(subject: ClaimInput, k: int, most: int | None = None) -> Tensor | None:
    """The first tokens of every layer, as many as give all experts the same load.

    Args:
        subject: logits (L, T, E).
        k: experts per token.
        most: tokens, where a check would be slow with more.

    Returns:
        (L, T', E) with T' k a multiple of E, or None where there are too few tokens for that.
    """
    _, T, E = subject.shape
    step = E // math.gcd(E, k)
    room = T if most is None else min(T, max(most, step))
    return subject.logits[:, : room // step * step] if room >= step else None


def too_few(k: int) -> Evidence:
    """The claim does not apply: no number of these tokens gives all experts equal loads."""
    return Evidence(None, f"Too few tokens for equal loads with k={k}: nothing to ask.")


def balanced_optimum(scores: Tensor, k: int) -> Solution:
    """The optimum of `balanced` for scores (T, E), with prices that prove it."""
    return solve(balanced(scores, k))


def optimum(problem: RoutingProblem) -> tuple[float, Tensor, Tensor]:
    """The optimum of a feasible problem: its value, its pairs (T, E), its experts' prices (E,)."""
    solution = solve(problem)
    assert solution.assignment is not None
    prices = solution.prices.experts
    E = problem.scores.shape[1]
    beta = problem.scores.new_zeros(E) if prices is None else prices.to(problem.scores)
    return float(solution.value), solution.assignment.x.bool(), beta


def rounding(value: float) -> float:
    """By how much a sum of this size may be off."""
    return SLACK * (1 + abs(value))


def by_layer(name: str, values: Sequence[Number]) -> dict[str, Number]:
    """The numbers of the layers under their names: `name, layer 0`, ..."""
    return {f"{name}, layer {layer}": value for layer, value in enumerate(values)}


def span(values: Sequence[float], digits: int = 3) -> str:
    """The smallest to the largest of some numbers, in words: "1.2 to 3.4", or one number.

    Counts, which are int, are written out.
    """
    low, high = (_in_digits(extreme(values), digits) for extreme in (min, max))
    return low if low == high else f"{low} to {high}"


def _in_digits(value: float, digits: int) -> str:
    return f"{value}" if isinstance(value, int) else f"{value + 0.0:.{digits}g}"  # no -0


def share_below(value: float, optimum: float) -> float:
    """By how many per cent of an optimum a value lies below it, to nine places."""
    return -share_above(value, optimum) + 0.0  # no -0


def share_above(value: float, optimum: float) -> float:
    """By how many per cent of an optimum a value lies above it, to nine places.

    Smaller differences are rounding. For an optimum of 0, the value itself times 100.
    """
    return round(100 * (value - optimum) / (abs(optimum) or 1.0), 9) + 0.0  # no -0


def best_by_trial(
    scores: Tensor, counts: range, loads: range, *, rows: list[range] | None = None
) -> float | None:
    """The largest value of a whole assignment within its bounds; None where there is none.

    Exact where sums of scores are, as with small whole numbers. The work grows with the number of
    loads that can be reached, (T + 1) ** E at most: for a few tokens and experts.

    Args:
        scores: (T, E).
        counts: how many experts a token may take.
        loads: how many tokens an expert may take.
        rows: the same for each expert on its own, in place of `loads`.
    """
    E = scores.shape[1]
    allowed = rows or [loads] * E
    most = [max(each, default=-1) for each in allowed]
    choices = [chosen for n in counts for chosen in combinations(range(E), n)]
    reached: dict[tuple[int, ...], float] = {(0,) * E: 0.0}
    for row in scores.tolist():
        following: dict[tuple[int, ...], float] = {}
        for load, value in reached.items():
            for chosen in choices:
                after = list(load)
                for j in chosen:
                    after[j] += 1
                if any(after[j] > most[j] for j in chosen):
                    continue
                worth, key = value + sum(row[j] for j in chosen), tuple(after)
                if worth > following.get(key, float("-inf")):
                    following[key] = worth
        reached = following
    fitting = [
        value
        for load, value in reached.items()
        if all(n in each for n, each in zip(load, allowed, strict=True))
    ]
    return max(fitting, default=None)


def equal_shares(T: int, E: int) -> list[tuple[int, int]]:
    """Every k below E for which all experts can have the same load, and that load: (k, T k / E)."""
    return [(k, T * k // E) for k in range(1, E) if T * k % E == 0]


def exactly_balanced(scores: Tensor, k: int) -> float:
    """The optimum with k experts a token and T k / E tokens an expert, which E must divide."""
    T, E = scores.shape
    share = T * k // E
    best = best_by_trial(scores, range(k, k + 1), range(share, share + 1))
    if best is None:
        raise ValueError(f"{T} tokens of {k} experts each have no equal share of {E} experts.")
    return best


def balanced_dual(scores: Tensor, prices: Tensor, k: int) -> float:
    """The dual of that problem at prices (E,): what tokens earn by their k best, and the shares.

    sum_i (sum of the k largest s_ij - price_j) + (T k / E) sum_j price_j (design: weak duality).
    It equals the optimum exactly where some choice of k best experts by every token is balanced.
    """
    T, E = scores.shape
    earned = (scores - prices).topk(k).values.sum()
    return float(earned + T * k / E * prices.sum())
