"""The best k experts of at most M groups: exact by token; with capacities by branch and bound.

A token takes exactly k experts, and they lie in at most M of G groups of equal size (experts 0 to
E/G - 1, and so on; devices or nodes). With y_ig = 1 where token i opens group g:

    maximise    sum_ij s_ij x_ij
    subject to  sum_j x_ij = k,  x_ij <= y_i,group(j),  sum_g y_ig <= M,  x and y 0 or 1

Its relaxation has fractional optima: with k = 2, M = 1 and groups (10, 7, 7 | 12, 2, 0) the LP's
value is 18, with half of each group open, and the whole-number optimum is 17. Without capacities
tokens are independent, so each is a small problem of its own: `best_in_groups` solves it by dynamic
programming and `relaxed_in_groups` its LP by one price. With capacities `searched_in_groups` asks
HiGHS.
"""

from typing import Any, Literal

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.problem.bounds import at_most, exactly
from lp_routing.problem.problem import RoutingProblem
from lp_routing.routers.token_choice import GroupLimited
from lp_routing.solvers.highs import BoundedChoice, NothingFound, search
from lp_routing.solvers.linear_program import Vector
from lp_routing.solvers.min_cost_flow import MinCostFlow
from lp_routing.solvers.solve import solve
from lp_routing.validation import Scores, as_bool, as_int, as_scores, refuse_nan_and_inf

NEVER = float("-inf")
CHUNK = 1 << 14
"""Tokens processed together: larger needs more memory, smaller more calls.

65,536 tokens x 64 experts (k = 4, 2 of 8 groups) take 0.47 s on one core; 0.54 s at 2**10 and
0.93 s at 2**18.
"""
HALVINGS = 44
"""Bisection steps for a token's price: its interval shrinks to 2**-44 of its length, some 6e-14.

The bound holds at every price; fewer steps would leave it looser.
"""


def best_in_groups(scores: Scores, k: int, groups: int, top_groups: int) -> BoundedChoice:
    """The best k experts per token in at most M groups, for any number of tokens; x (T, E).

    Within a group the best experts come first, so a choice is a number of experts for each group:
    group after group, the table holds the best value of q experts out of at most m groups. Ties go
    to the earlier groups and the lower experts. Cost: G k sums over (T, M, k).

    Args:
        scores: (T, E); -inf forbids a pair.
        k: experts per token.
        groups: G, a divisor of E.
        top_groups: M.

    Raises:
        InputError: bad scores, a number out of range, or a token whose M groups hold fewer than k
            allowed experts.

    Example:
        >>> scores = torch.tensor([[10.0, 7, 7, 12, 2, 0]])  # groups (10, 7, 7) and (12, 2, 0)
        >>> lpr.extensions.best_in_groups(scores, k=2, groups=2, top_groups=1).value
        17.0
    """
    values = _checked(scores, k, groups, top_groups)
    x = torch.cat([_by_table(rows, k, groups, top_groups) for rows in torch.split(values, CHUNK)])
    value = _worth(values, x)
    return BoundedChoice(x, value, value, "dynamic programming over groups")


def relaxed_in_groups(scores: Scores, k: int, groups: int, top_groups: int) -> float:
    """The LP's value, of all tokens together, which may exceed that of every whole choice.

    Token by token: at a price p for each expert taken, group g earns v_g = sum (s_j - p)+, and k p
    plus the M largest v_g is an upper bound at any p, least at the LP's own (duality). It is convex
    in p, so its slope, k minus the number of experts worth taking, says on which side the minimum
    is.

    Raises:
        InputError: as `best_in_groups`.

    Example:
        >>> scores = torch.tensor([[10.0, 7, 7, 12, 2, 0]])  # groups (10, 7, 7) and (12, 2, 0)
        >>> round(lpr.extensions.relaxed_in_groups(scores, k=2, groups=2, top_groups=1), 6)
        18.0
    """
    values = _checked(scores, k, groups, top_groups)
    least = [_least_bound(rows, k, groups, top_groups) for rows in torch.split(values, CHUNK)]
    return float(torch.cat(least).sum())


def searched_in_groups(
    scores: Scores,
    k: int,
    groups: int,
    top_groups: int,
    *,
    capacity: int | None = None,
    integral: bool = True,
    time_limit_s: float = 60.0,
) -> BoundedChoice:
    """The same by HiGHS, also with capacities of C tokens an expert; x (T, E).

    With a capacity a token takes at most k experts, since k may be infeasible. One column for each
    pair and one for each token and group: for up to some thousand pairs.

    Only the open groups y are integer variables. Once they are fixed, the rest is a flow, whose
    optima are whole, and `MinCostFlow` finds the best. 1,024 tokens of the sample (k = 4, 2 of 8
    groups, capacity factor 1) take 20 s this way on one core, and 58 s with integer x as well, with
    the same optimum.

    Args:
        scores, k, groups, top_groups: as in `best_in_groups`.
        capacity: C, tokens per expert at most; None for no limit.
        integral: False for the LP relaxation, whose x has fractions.
        time_limit_s: seconds after which to stop, with the best choice and bound so far.

    Raises:
        InputError: as `best_in_groups`; nothing found in time.

    Example:
        >>> scores = torch.tensor([[10.0, 9, 1, 1], [7, 7, 6, 6]])  # groups (0, 1) and (2, 3)
        >>> lpr.extensions.searched_in_groups(scores, 2, groups=2, top_groups=1, capacity=1).value
        31.0
    """
    values = _checked(scores, k, groups, top_groups, exactly=capacity is None)
    if capacity is not None:
        capacity = as_int(capacity, "capacity", 0)
    T, E = values.shape
    table = values.cpu().numpy()
    pairs, opened = T * E, T * groups
    matrix, lower, upper = _rows(T, E, k, groups, top_groups, capacity)
    allowed = np.isfinite(table).reshape(-1)
    found = search(
        np.concatenate([np.where(allowed, table.reshape(-1), 0.0), np.zeros(opened)]),
        matrix,
        lower,
        upper,
        column_upper=np.concatenate([allowed.astype(float), np.ones(opened)]),
        whole=np.repeat([0.0, float(as_bool(integral, "integral"))], [pairs, opened]),
        time_limit_s=time_limit_s,
    )
    if integral:
        x = _best_in_open(values, found.x[pairs:].reshape(T, groups) > 0.5, k, capacity)
    else:
        x = torch.as_tensor(found.x[:pairs].reshape(T, E)).to(values.device)
    value = _worth(values, x)
    return BoundedChoice(x, value, max(found.bound, value), found.ended)


def _best_in_open(values: Tensor, opened: Any, k: int, capacity: int | None) -> Tensor:
    """The best whole choice in the groups that each token opens, (T, G) booleans; (T, E)."""
    each = values.shape[1] // opened.shape[1]
    open_pairs = torch.as_tensor(opened, device=values.device).repeat_interleave(each, dim=1)
    inside = values.masked_fill(~open_pairs, NEVER)
    tokens = exactly(k) if capacity is None else at_most(k)
    experts = None if capacity is None else at_most(capacity)
    solution = solve(RoutingProblem(inside, tokens=tokens, experts=experts), MinCostFlow())
    if solution.assignment is None:  # cannot happen: the search found one
        raise NothingFound(f"the groups that HiGHS opened admit no choice: {solution.explanation}")
    return solution.assignment.x


def of_proxy(
    scores: Scores, k: int, groups: int, top_groups: int, rank_by: Literal["max", "top2"] = "max"
) -> BoundedChoice:
    """DeepSeek's choice and its value; the bound is the value of the best choice; x (T, E).

    Groups are ranked by a proxy, their best score ("max", DeepSeek-V2) or the sum of their
    two best ("top2", DeepSeek-V3); see `GroupLimited`.

    Raises:
        InputError: as `best_in_groups`; also where the proxy opens groups that hold fewer than k
            allowed experts.

    Example:
        >>> scores = torch.tensor([[10.0, 7, 7, 12, 2, 0]])  # groups (10, 7, 7) and (12, 2, 0)
        >>> found = lpr.extensions.of_proxy(scores, k=2, groups=2, top_groups=1)
        >>> found.value, found.bound
        (14.0, 17.0)
    """
    values = _checked(scores, k, groups, top_groups)
    x = GroupLimited(k, groups, top_groups, rank_by, score="logits").select(values)
    short = x.sum(-1) < k
    if bool(short.any()):
        i = int(short.nonzero()[0])
        raise InputError(
            f"scores: the groups that {rank_by!r} opens for token {i} hold {int(x[i].sum())} "
            f"allowed experts, fewer than k={k}; forbid fewer pairs."
        )
    best = best_in_groups(values, k, groups, top_groups)
    return BoundedChoice(x, _worth(values, x), best.value, best.ended)


def _checked(
    scores: Scores, k: int, groups: int, top_groups: int, *, exactly: bool = True
) -> Tensor:
    """Scores as float64 (T, E), all arguments checked; each token has k allowed experts."""
    values = as_scores(scores)
    refuse_nan_and_inf(values, "scores")
    E = values.shape[1]
    groups = as_int(groups, "groups", 1, E, "E, the number of experts")
    if E % groups:
        raise InputError(f"groups={groups} does not divide E, the number of experts ({E}).")
    top_groups = as_int(top_groups, "top_groups", 1, groups, "groups, the number of groups")
    as_int(k, "k", 1, top_groups * E // groups, f"the experts of {top_groups} group(s)")
    allowed = _grouped(values > NEVER, groups).sum(-1).topk(top_groups).values.sum(-1)
    if exactly and bool((allowed < k).any()):
        i = int((allowed < k).nonzero()[0])
        raise InputError(
            f"scores: token {i} has {int(allowed[i])} allowed experts in its {top_groups} largest "
            f"group(s), fewer than k={k}; forbid fewer pairs or lower k."
        )
    return values.double()


def _grouped(values: Tensor, groups: int) -> Tensor:
    return values.reshape(*values.shape[:-1], groups, values.shape[-1] // groups)


def _worth(values: Tensor, x: Tensor) -> float:
    return float((values.masked_fill(x == 0, 0.0) * x).sum())


def _by_table(values: Tensor, k: int, groups: int, top_groups: int) -> Tensor:
    """The best choice of some tokens, boolean (T, E)."""
    ordered = _grouped(values, groups).sort(dim=-1, descending=True, stable=True)
    most = min(k, ordered.values.shape[-1])
    first = ordered.values[..., :most].cumsum(-1)  # (T, G, most): value of the best 1, 2, ...
    table = values.new_full((len(values), top_groups + 1, k + 1), NEVER)
    table[:, :, 0] = 0.0
    gives = []
    for g in range(groups):
        before, given = table.clone(), torch.zeros_like(table, dtype=torch.int32)
        for count in range(1, most + 1):
            worth = before[:, :-1, : k + 1 - count] + first[:, g, count - 1, None, None]
            better = worth > table[:, 1:, count:]
            table[:, 1:, count:] = torch.where(better, worth, table[:, 1:, count:])
            given[:, 1:, count:].masked_fill_(better, count)
        gives.append(given)
    return _traced(gives, ordered.indices, k, top_groups)


def _traced(gives: list[Tensor], order: Tensor, k: int, top_groups: int) -> Tensor:
    """Read the choice back from the last group to the first."""
    tokens = torch.arange(len(order), device=order.device)
    left, open_left = torch.full_like(tokens, k), torch.full_like(tokens, top_groups)
    place = torch.arange(order.shape[-1], device=order.device)
    x = torch.zeros_like(order, dtype=torch.bool)
    for g in reversed(range(len(gives))):
        count = gives[g][tokens, open_left, left].long()
        x[:, g] = x[:, g].scatter(-1, order[:, g], place < count[:, None])
        left, open_left = left - count, open_left - (count > 0).long()
    return x.flatten(1)


def _least_bound(values: Tensor, k: int, groups: int, top_groups: int) -> Tensor:
    """The LP value of each token, (T,)."""
    inside = _grouped(values, groups)
    low = values.where(values > NEVER, float("inf")).amin(-1)
    high = values.amax(-1)
    best = values.new_full((len(values),), float("inf"))
    for price in (low, high):
        best = torch.minimum(best, _bound_at(inside, price, k, top_groups)[0])
    for _ in range(HALVINGS):
        price = (low + high) / 2
        bound, slope = _bound_at(inside, price, k, top_groups)
        best = torch.minimum(best, bound)
        low, high = torch.where(slope < 0, price, low), torch.where(slope < 0, high, price)
    return best


def _bound_at(inside: Tensor, price: Tensor, k: int, top_groups: int) -> tuple[Tensor, Tensor]:
    """The bound at a price per token, and a slope of it, both (T,)."""
    over = inside - price[:, None, None]
    earned = over.clamp(min=0).sum(-1).topk(top_groups, dim=-1)
    takers = (over > 0).sum(-1).gather(-1, earned.indices).sum(-1)
    return k * price + earned.values.sum(-1), k - takers


def _rows(
    T: int, E: int, k: int, groups: int, top_groups: int, capacity: int | None
) -> tuple[Any, Vector, Vector]:
    """Token rows, pairs only in open groups, M groups per token, capacities; and their limits."""
    tokens = sparse.identity(T)
    per_token = sparse.kron(tokens, np.ones((1, E)))
    opens = sparse.kron(sparse.identity(T * groups), np.ones((E // groups, 1)))
    per_group = sparse.kron(tokens, np.ones((1, groups)))
    per_expert = sparse.kron(np.ones((1, T)), sparse.identity(E))
    blocks = [[per_token, None], [sparse.identity(T * E), -opens], [None, per_group]]
    upper = [np.full(T, float(k)), np.zeros(T * E), np.full(T, float(top_groups))]
    if capacity is not None:
        blocks.append([per_expert, None])
        upper.append(np.full(E, float(capacity)))
    limits = np.concatenate(upper)
    lower = np.full(len(limits), -np.inf)
    if capacity is None:
        lower[:T] = k
    return sparse.bmat(blocks, format="csr"), lower, limits
