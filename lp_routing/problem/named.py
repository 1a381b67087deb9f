"""The routing problems that have a name, each one line of `RoutingProblem`.

Capacities, budgets and k are whole numbers here; `RoutingProblem` itself takes fractions too.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.problem.bounds import at_least, at_most, between, exactly
from lp_routing.problem.capacity_factor import CapacityFactor
from lp_routing.problem.problem import RoutingProblem
from lp_routing.validation import Scores, as_int, as_scores

__all__ = [
    "balanced",
    "capacity",
    "capped_expert_choice",
    "expert_choice",
    "served_unified",
    "token_choice",
    "unified",
]


def token_choice(scores: Scores, k: int) -> RoutingProblem:
    """Each token takes exactly k experts (Shazeer et al. 2017, eq. 5); fast rule: row top-k.

    Example:
        >>> lpr.solve(lpr.problems.token_choice([[3, 1], [2, 1]], k=1)).value
        5.0
    """
    scores = as_scores(scores)
    k = as_int(k, "k", 0, scores.shape[1], "E, the number of experts")
    return RoutingProblem(scores, tokens=exactly(k))


def expert_choice(scores: Scores, capacity: int) -> RoutingProblem:
    """Each expert takes exactly C tokens (Zhou et al. 2022); fast rule: column top-C.

    Example:
        >>> lpr.solve(lpr.problems.expert_choice([[3, 1], [2, 1]], capacity=1)).value
        4.0
    """
    scores = as_scores(scores)
    capacity = as_int(capacity, "capacity", 0, scores.shape[0], "T, the number of tokens")
    return RoutingProblem(scores, experts=exactly(capacity))


def unified(scores: Scores, total: int) -> RoutingProblem:
    """Exactly `total` pairs, wherever they are worth most (USMoE, Do et al. 2025); flattened top-N.

    For a budget that may be left unused, write RoutingProblem(scores, total=at_most(N)).

    Example:
        >>> lpr.solve(lpr.problems.unified([[3, 1], [2, 1]], total=3)).value
        6.0
    """
    scores = as_scores(scores)
    total = as_int(total, "total", 0, scores.numel(), "T * E, the number of pairs")
    return RoutingProblem(scores, total=exactly(total))


def capacity(
    scores: Scores,
    k: int,
    capacity: int | Sequence[int] | Tensor | np.ndarray[Any, Any] | None = None,
    *,
    factor: float = 1.25,
) -> RoutingProblem:
    """At most k experts a token and at most `capacity` tokens an expert (GShard, Switch, BIP).

    Args:
        scores: (T, E).
        k: experts per token.
        capacity: tokens per expert: one number for all, or E numbers, one for each. Left out, what
            `factor` gives.
        factor: the capacity relative to an equal share, ceil(factor k T / E) tokens as in
            Megatron; not used where `capacity` is given.

    Raises:
        InputError: not whole numbers >= 0, or not one for each expert; a factor that is not
            positive.

    Example:
        >>> lpr.solve(lpr.capacity([[3, 1], [2, 1]], k=1, factor=1.0)).value
        4.0
        >>> lpr.solve(lpr.capacity([[3, 1], [2, 1]], k=1, capacity=[2, 0])).value
        5.0
    """
    scores = as_scores(scores)
    T, E = scores.shape
    k = as_int(k, "k", 0, E, "E, the number of experts")
    if isinstance(capacity, Tensor | np.ndarray):
        capacity = capacity.tolist()
    if capacity is None:
        limit = at_most(CapacityFactor(factor).of(T, E, max(k, 1)))
    elif isinstance(capacity, Sequence) and not isinstance(capacity, str):
        each = [as_int(one, f"capacity[{i}]", 0) for i, one in enumerate(capacity)]
        limit = at_most(each)
    else:
        limit = at_most(as_int(capacity, "capacity", 0))
    return RoutingProblem(scores, tokens=at_most(k), experts=limit)


def balanced(scores: Scores, k: int, capacity: int | None = None) -> RoutingProblem:
    """Exactly k experts a token and equal loads (BASE, Lewis et al. 2021, eq. 3).

    Args:
        scores: (T, E).
        k: experts per token.
        capacity: tokens per expert; left out, T k / E, and where E does not divide T k, loads
            between its floor and its ceiling.

    Example:
        >>> lpr.solve(lpr.problems.balanced([[3, 1], [2, 1]], k=1)).assignment.load.tolist()
        [1.0, 1.0]
    """
    scores = as_scores(scores)
    T, E = scores.shape
    k = as_int(k, "k", 0, E, "E, the number of experts")
    if capacity is None:
        loads = between(T * k // E, math.ceil(T * k / E))
    else:
        loads = exactly(as_int(capacity, "capacity", 0, T, "T, the number of tokens"))
    return RoutingProblem(scores, tokens=exactly(k), experts=loads)


def capped_expert_choice(scores: Scores, capacity: int, k: int) -> RoutingProblem:
    """Each expert takes exactly `capacity` tokens, each token at most k (Zhou et al. 2022).

    Example:
        >>> problem = lpr.problems.capped_expert_choice([[3, 2], [2, 0]], capacity=1, k=1)
        >>> lpr.solve(problem).value
        4.0
    """
    scores = as_scores(scores)
    capacity = as_int(capacity, "capacity", 0, scores.shape[0], "T, the number of tokens")
    k = as_int(k, "k", 0, scores.shape[1], "E, the number of experts")
    return RoutingProblem(scores, tokens=at_most(k), experts=exactly(capacity))


def served_unified(scores: Scores, total: int) -> RoutingProblem:
    """Exactly N = `total` pairs, every token at least one.

    Fast rule: each token's best pair, then the top-(N - T) of the rest.

    Example:
        >>> lpr.solve(lpr.problems.served_unified([[3, 2], [1, 0]], total=2)).value
        4.0
    """
    scores = as_scores(scores)
    T = scores.shape[0]
    total = as_int(total, "total", 0, scores.numel(), "T * E, the number of pairs")
    problem = RoutingProblem(scores, tokens=at_least(1), total=exactly(total))
    if total < T:
        raise InputError(
            f"total={total} cannot give each of the {T} tokens an expert; it must be at least {T}."
        )
    return problem
