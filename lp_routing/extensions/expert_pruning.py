"""Which M of E experts to keep, so that tokens' best k among them are worth most.

    maximise    sum_ij f_i s_ij x_ij
    subject to  sum_j x_ij <= k,  x_ij <= y_j,  sum_j y_j = M,  y 0 or 1,   s_ij >= 0

a facility-location problem (a p-median for k = 1); row i stands for f_i tokens. The value of a set,
what every token's k best of it sum to, is a sum of weighted ranks of a uniform matroid, so it is
monotone and submodular for every k: `greedy` reaches at least 1 - 1/e of the best (Nemhauser,
Wolsey and Fisher 1978), and any set's value plus its M largest gains bounds the best.
`heavy_hitters` keeps the most used experts (SEER-MoE, Muzio et al. 2024), without such a guarantee.
`best_kept` is exact (HiGHS), for some thousand rows; `bound_on_kept` holds at any size.
"""

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.routers.selection import largest
from lp_routing.solvers.highs import BoundedChoice, NothingFound, search
from lp_routing.solvers.linear_program import Vector
from lp_routing.validation import Scores, as_int, as_reals, as_scores, as_tensor, refuse_nan_and_inf

PATIENCE = 10
"""Subgradient steps without a better bound, after which the step length is halved.

Fewer halve the steps too early, more too late. Of 2, 5, 10, 20 and 40 on the four layers of the
sample (8 of 32 experts kept, k = 2, 200 steps), all bounds lie within 0.3 % of each other and none
is best on all.
"""


def heavy_hitters(
    scores: Scores,
    keep: int,
    k: int,
    *,
    counts: Any = None,
    by: Literal["tokens", "score"] = "tokens",
) -> BoundedChoice:
    """Keep the M most used experts; x boolean (E,). Ties go to the lower expert.

    Args:
        scores: (T, E) numbers >= 0; -inf for pairs that are worth nothing.
        keep: M, experts to keep.
        k: experts per token, at most M.
        counts: (T,), row i stands for this many tokens; 1 where left out.
        by: "tokens" counts the tokens that have the expert among their k best (and worth more than
            0), "score" sums its scores over all tokens: SEER-MoE's hard and soft counting.

    Raises:
        InputError: negative scores, NaN or +inf, numbers out of range.

    Example:
        >>> lpr.extensions.heavy_hitters([[3, 2, 0], [3, 0, 2], [0, 1, 0]], keep=2, k=1).x.tolist()
        [True, True, False]
    """
    values, times = _checked(scores, keep, k, counts)
    if by not in ("tokens", "score"):
        raise InputError(f'by={by!r}: expected "tokens" or "score".')
    use = values if by == "score" else (largest(values, k) & (values > 0)).double()
    x = largest(times @ use, keep)
    return _judged(values, times, x, k, f"heavy hitters by {by}")


def greedy(scores: Scores, keep: int, k: int, *, counts: Any = None) -> BoundedChoice:
    """Keep one expert after the other, each time the one that adds most; x boolean (E,).

    Ties go to the lower expert. Cost: M passes over the scores.

    Args and raises: as `heavy_hitters`.

    Example:
        >>> lpr.extensions.greedy([[3, 2, 0], [3, 0, 2], [0, 1, 0]], keep=2, k=1).value
        7.0
    """
    values, times = _checked(scores, keep, k, counts)
    x = torch.zeros(values.shape[1], dtype=torch.bool, device=values.device)
    best = values.new_zeros(len(values), k)
    for _ in range(keep):
        gains = _gains(values, times, best).masked_fill(x, -1.0)
        taken = largest(gains, 1)
        x |= taken
        best = torch.cat([best, values[:, taken]], 1).topk(k).values
    return _judged(values, times, x, k, "greedy")


def best_kept(
    scores: Scores, keep: int, k: int, *, counts: Any = None, time_limit_s: float = 60.0
) -> BoundedChoice:
    """The best M experts to keep, by HiGHS on rows that are merged where equal; x boolean (E,).

    Only y must be whole: given the kept experts, a token's best k are. At the time limit, which
    `ended` reports, the result is the better of the search's choice and `greedy`, with the better
    of the search's bound and `bound_on_kept`.

    Args and raises: as `heavy_hitters`.

    Example:
        >>> found = lpr.extensions.best_kept([[3, 2, 0], [3, 0, 2], [0, 1, 0]], keep=2, k=1)
        >>> found.x.tolist(), found.value
        ([True, True, False], 7.0)
    """
    values, times = _merged(*_checked(scores, keep, k, counts))
    start = greedy(values, keep, k, counts=times)
    worth = (times[:, None] * values).cpu().numpy()
    token, expert = worth.nonzero()
    if not len(token):
        return start
    proved = max(bound_on_kept(values, keep, k, counts=times), start.value)
    matrix, lower, upper = _rows(token, expert, values.shape, k, keep)
    E = values.shape[1]
    try:
        found = search(
            np.concatenate([worth[token, expert], np.zeros(E)]),
            matrix,
            lower,
            upper,
            column_upper=np.ones(len(token) + E),
            whole=np.concatenate([np.zeros(len(token)), np.ones(E)]),
            time_limit_s=time_limit_s,
        )
    except NothingFound as stopped:
        return replace(start, bound=proved, ended=f"greedy, since {stopped}")
    x = torch.as_tensor(found.x[len(token) :] > 0.5).to(values.device)
    value = kept_value(values, x, k, counts=times)
    if value < start.value:
        x, value = start.x, start.value
    return BoundedChoice(x, value, max(min(found.bound, proved), value), found.ended)


def bound_on_kept(
    scores: Scores, keep: int, k: int, *, counts: Any = None, steps: int = 200
) -> float:
    """An upper bound for any M experts, for any number of rows: the LP's dual by subgradient steps.

    At prices u_i >= 0 of a token's slots, k sum_i f_i u_i plus the M largest
    sum_i f_i (s_ij - u_i)+ is an upper bound; its least is the LP's value. Prices start at the k-th
    best score that the greedy choice leaves a token; with steps = 0 it is that choice's own bound.

    Args and raises: as `heavy_hitters`. Cost: one pass over the scores a step.

    Example:
        >>> lpr.extensions.bound_on_kept([[3, 2, 0], [3, 0, 2], [0, 1, 0]], keep=2, k=1) >= 7
        True
    """
    return prices_of_kept(scores, keep, k, counts=counts, steps=steps)[0]


def prices_of_kept(
    scores: Scores, keep: int, k: int, *, counts: Any = None, steps: int = 200
) -> tuple[float, Tensor]:
    """`bound_on_kept`, and the prices (T,) that prove it; for k = 1 also beyond these E experts.

    With other experts the bound is k sum_i f_i u_i plus M times the largest sum_i f_i (s_i - u_i)+
    of all of them: column generation adds the expert that has it.

    Args and raises: as `heavy_hitters`. Cost: one pass over the scores a step.
    """
    values, times = _checked(scores, keep, k, counts)
    steps = as_int(steps, "steps", 0)
    choice = greedy(values, keep, k, counts=times)
    best, length, waited = choice.bound, 1.0, 0
    prices = _best_of(values, choice.x, k)[:, -1]
    proving = prices
    for _ in range(steps):
        over = values - prices[:, None]
        earned = times @ over.clamp(min=0)
        kept = largest(earned, keep)
        bound = float(k * (times @ prices) + earned[kept].sum())
        waited = 0 if bound < best else waited + 1
        if bound < best:
            best, proving = bound, prices
        slope = k - (over[:, kept] > 0).sum(-1).double()
        size = float(times @ slope.square())
        if size == 0 or best <= choice.value:
            break
        if waited == PATIENCE:
            length, waited = length / 2, 0
        step = length * max(bound - choice.value, 0.0) / size
        prices = (prices - step * slope).clamp(min=0)
    return best, proving


def kept_value(scores: Scores, kept: Tensor, k: int, *, counts: Any = None) -> float:
    """What tokens' k best of the kept experts, boolean (E,), sum to.

    Raises:
        InputError: as `heavy_hitters`; not one boolean per expert.

    Example:
        >>> kept = torch.tensor([True, False, False])
        >>> lpr.extensions.kept_value([[3, 2, 0], [3, 0, 2], [0, 1, 0]], kept, k=1)
        6.0
    """
    values = as_scores(scores)
    kept = as_tensor(kept, "kept", "one boolean per expert")
    if kept.dtype != torch.bool or tuple(kept.shape) != (values.shape[1],):
        raise InputError(
            f"kept: expected {values.shape[1]} booleans, one per expert, got {kept.dtype} of shape "
            f"{tuple(kept.shape)}."
        )
    values, times = _checked(values, int(kept.sum()), k, counts)
    return float(times @ _best_of(values, kept, k).sum(-1))


def _checked(scores: Scores, keep: int, k: int, counts: Any) -> tuple[Tensor, Tensor]:
    """Scores float64 (T, E) with 0 for what is forbidden, and the rows' counts, float64 (T,)."""
    values = as_scores(scores).double()
    refuse_nan_and_inf(values, "scores")
    values = values.masked_fill(values == float("-inf"), 0.0)
    T, E = values.shape
    if bool((values < 0).any()):
        raise InputError(
            f"scores: expected numbers >= 0, got {float(values.min()):g}; a token may leave a slot "
            f"empty, so give scores such as the softmax, not logits."
        )
    keep = as_int(keep, "keep", 1, E, "E, the number of experts")
    as_int(k, "k", 1, keep, "keep, the experts that are left")
    if counts is None:
        return values, values.new_ones(T)
    times = as_reals(counts, "counts", "one number per row").to(values.device)
    if tuple(times.shape) != (T,) or not bool((times.isfinite() & (times >= 0)).all()):
        raise InputError(
            f"counts: expected {T} finite numbers >= 0, one per row, got shape "
            f"{tuple(times.shape)}."
        )
    return values, times


def _best_of(values: Tensor, kept: Tensor, k: int) -> Tensor:
    """Each row's k best kept scores, best first, (T, k)."""
    return values[:, kept].topk(k).values


def _gains(values: Tensor, times: Tensor, best: Tensor) -> Tensor:
    """What each expert adds, (E,): by how much it beats the worst of a row's k best so far."""
    return times @ (values - best[:, -1:]).clamp(min=0)


def _judged(values: Tensor, times: Tensor, x: Tensor, k: int, words: str) -> BoundedChoice:
    """A choice with the better of two bounds: all experts, and its value plus the largest gains."""
    best = _best_of(values, x, k)
    value = float(times @ best.sum(-1))
    gains = _gains(values, times, best).masked_fill(x, 0.0)
    by_gains = value + float(gains.topk(int(x.sum())).values.sum())
    everything = float(times @ values.topk(k).values.sum(-1))
    return BoundedChoice(x, value, min(by_gains, max(everything, value)), words)


def _merged(values: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Rows that are equal as one, with their counts added."""
    rows, where = torch.unique(values, dim=0, return_inverse=True)
    return rows, times.new_zeros(len(rows)).index_add(0, where, times)


def _rows(
    token: Any, expert: Any, shape: torch.Size, k: int, keep: int
) -> tuple[Any, Vector, Vector]:
    """At most k a token, only kept experts, M kept; and the limits of these rows."""
    T, E = shape
    n = len(token)
    column = np.arange(n)
    per_token = sparse.csr_matrix((np.ones(n), (token, column)), shape=(T, n))
    opened = sparse.csr_matrix((np.ones(n), (column, expert)), shape=(n, E))
    blocks = [
        [per_token, None],
        [sparse.identity(n), -opened],
        [None, sparse.csr_matrix(np.ones((1, E)))],
    ]
    upper = np.concatenate([np.full(T, float(k)), np.zeros(n), [float(keep)]])
    lower = np.append(np.full(T + n, -np.inf), float(keep))
    return sparse.bmat(blocks, format="csr"), lower, upper
