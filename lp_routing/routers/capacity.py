"""Expert capacity: which tokens are dropped above it."""

import torch
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.problem.capacity_factor import CapacityFactor
from lp_routing.routers.selection import largest, ranks
from lp_routing.validation import as_int

Capacity = int | CapacityFactor


def check_capacity(capacity: Capacity) -> None:
    """Raise `InputError` unless the capacity is a whole number >= 0 or a `CapacityFactor`."""
    if isinstance(capacity, CapacityFactor):
        return
    try:
        as_int(capacity, "capacity", 0)
    except InputError as error:
        raise InputError(
            f"capacity={capacity!r}: expected a whole number of tokens >= 0, or "
            f"CapacityFactor(1.25)."
        ) from error


def resolve_capacity(capacity: Capacity, scores: Tensor, k: int) -> int:
    """The capacity in tokens for scores (..., T, E); padding counts, as in the sources."""
    if isinstance(capacity, CapacityFactor):
        return capacity.of(scores.shape[-2], scores.shape[-1], k)
    return as_int(capacity, "capacity", 0)


def keep_by_score(scores: Tensor, chosen: Tensor, capacity: int) -> Tensor:
    """Each expert keeps its `capacity` best of the chosen pairs; ties to the earlier token."""
    asked = scores.masked_fill(~chosen, float("-inf"))
    return largest(asked.mT, capacity).mT


def keep_first_tokens(chosen: Tensor, capacity: int) -> Tensor:
    """Each expert keeps the `capacity` earliest tokens (token-major; MegaBlocks)."""
    return chosen & (chosen.cumsum(-2) <= capacity)


def keep_first_choices(scores: Tensor, chosen: Tensor, capacity: int, k: int) -> Tensor:
    """First choices before second choices, each in token order (rank-major; GShard, Switch).

    A dropped first choice takes no slot from a second choice of the same expert, which is full by
    then.
    """
    rank = ranks(scores.masked_fill(~chosen, float("-inf")))
    kept = chosen.new_zeros(chosen.shape)
    ahead = chosen.new_zeros((*chosen.shape[:-2], 1, chosen.shape[-1]), dtype=torch.long)
    for r in range(k):
        asked = chosen & (rank == r)
        kept |= asked & (ahead + asked.cumsum(-2) <= capacity)
        ahead = ahead + asked.sum(-2, keepdim=True)
    return kept
