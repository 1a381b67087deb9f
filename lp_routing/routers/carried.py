"""What routers that carry prices share: the state's check, and where a price may lie."""

import torch
from torch import Tensor

from lp_routing.errors import InputError

INF = float("inf")


def check_state(state: object, shape: tuple[int, ...], what: str) -> Tensor:
    """The state as it is, if it is a finite floating-point tensor of that shape.

    Raises:
        InputError: a state of other experts, other leading dimensions or another kind.
    """
    if not isinstance(state, Tensor):
        raise InputError(
            f"state: expected {what}, a tensor of shape {shape}, got {type(state).__name__}; give "
            f"what the call before returned, or None to start cold."
        )
    if state.shape != shape or not state.is_floating_point():
        raise InputError(
            f"state: expected {what}, floating-point numbers of shape {shape}, got {state.dtype} "
            f"of shape {tuple(state.shape)}; each entry of the leading dimensions has its own."
        )
    if not bool(state.isfinite().all()):
        raise InputError(f"state: {what} must be finite; start again with None.")
    return state


def cold_prices(scores: Tensor) -> Tensor:
    """Zeros (..., E) in the precision of the scores (..., T, E), float32 at least."""
    dtype = torch.promote_types(scores.dtype, torch.float32)
    shape = (*scores.shape[:-2], scores.shape[-1])
    return torch.zeros(shape, dtype=dtype, device=scores.device)


def around(ordered: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """The (count + 1)-th and the count-th entry of lines in descending order.

    Args:
        ordered: (..., n).
        count: whole numbers from 0 to n that broadcast to (...).

    Returns:
        Two tensors (...): the lower is -inf past the last entry, the upper +inf before the first.
        At a price between the two, exactly `count` entries of a line are worth taking.
    """
    n = ordered.shape[-1]
    at = count.expand(ordered.shape[:-1])[..., None]
    lower = ordered.gather(-1, at.clamp(max=n - 1)).masked_fill(at >= n, -INF)
    upper = ordered.gather(-1, (at - 1).clamp(min=0)).masked_fill(at == 0, INF)
    return lower[..., 0], upper[..., 0]


def past(values: Tensor, count: int) -> Tensor:
    """The (count + 1)-th largest entry of each line (..., n), or 0 where it is less or missing."""
    if count >= values.shape[-1]:
        return values.new_zeros(values.shape[:-1])
    return torch.topk(values, count + 1).values[..., -1].clamp(min=0)
