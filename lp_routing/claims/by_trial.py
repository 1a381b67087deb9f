"""The best balanced value of a tiny matrix by trying every assignment: no rounding, no solver."""

from itertools import combinations

from torch import Tensor


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
