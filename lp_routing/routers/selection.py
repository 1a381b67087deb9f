"""The one selection every quick rule is made of: the largest entries, ties to the lowest index."""

import torch
from torch import Tensor

from lp_routing.validation import whole


def largest(scores: Tensor, count: int | Tensor) -> Tensor:
    """Mark the `count` largest entries along the last axis.

    Args:
        scores: (..., n); entries of -inf are never marked, so fewer than `count` may be.
        count: how many; an int, or whole numbers (...), one per line.

    Returns:
        Boolean (..., n). Among equal entries at the threshold those of lowest index are marked,
        on every device and for every dtype; `torch.topk` leaves that order open.
    """
    n = scores.shape[-1]
    if not isinstance(count, Tensor):
        count = whole(count, "count", 0)
        if count >= n:
            return scores > float("-inf")
        if count == 0:
            return torch.zeros_like(scores, dtype=torch.bool)
        threshold = torch.topk(scores, count).values[..., -1:]
        wanted: int | Tensor = count
    else:
        wanted = count.clamp(max=n)[..., None]
        ordered = torch.sort(scores, descending=True).values
        threshold = ordered.gather(-1, (wanted - 1).clamp(min=0))
    above = scores > threshold
    level = scores == threshold
    open_places = wanted - above.sum(-1, keepdim=True)
    chosen = above | (level & (level.cumsum(-1) <= open_places))
    return chosen & (scores > float("-inf"))


def ranks(scores: Tensor) -> Tensor:
    """Rank of each entry along the last axis, 0 for the largest, ties to the lowest index."""
    order = torch.sort(scores, descending=True, stable=True).indices
    places = torch.arange(scores.shape[-1], device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, places)
