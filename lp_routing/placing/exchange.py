"""Meet lower bounds by exchanges: one token makes room where another one has to go.

A missing pair is added along a path of experts, each of which passes one of its tokens on to the
next, until one has room or a token that has more than it must gives a pair up. The path is the one
that loses least at the prices; several tokens go along it at once. These are the augmenting paths
of a flow, with the tokens between two experts as one arc, so that E + 1 nodes are searched
whatever T is. Without groups, a bound that no path serves cannot be met (Ford and Fulkerson 1956);
a path that starts and ends in different groups must leave both in bounds, which may be too strict.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lp_routing.placing.placement import INF, Limit, Placement, at
from lp_routing.placing.rounds import keep_best

SHARE = 4
"""At most a quarter of what is missing goes along one path before the next one is sought."""


@dataclass(frozen=True, eq=False)
class Need:
    """What is missing, and between which experts a path may serve it.

    Attributes:
        start: float64 (E + 1,), what it costs to begin at each expert, or outside (the last);
            inf where no path may begin.
        begin: float64 (E + 1,), how many units may begin there.
        end: float64 (E + 1,), how many units may end there; 0 where no path may end.
        owed: float64 (T,), how many pairs each row is short of; the path then begins with one of
            these rows. None where it begins with an expert that passes a token on.
    """

    start: Tensor
    begin: Tensor
    end: Tensor
    owed: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Moves:
    """Tokens that may go along one arc of a path, each (n,), the least loss first."""

    token: Tensor
    amount: Tensor
    loss: Tensor


def exchange(placement: Placement) -> bool:
    """Move pairs until all lower bounds are met; False where paths are not enough."""
    graph = _Graph(placement)
    if not graph.serve(lambda: _of_tokens(placement, placement.lower - placement.per_token)):
        return False
    for limit in placement.limits:
        if not graph.serve(lambda limit=limit: _of_limit(placement, limit)):  # type: ignore[misc]
            return False
    return True
