"""Selection of the largest entries with ties to the lowest index, and random numbers.

Random numbers are a function of seed and position (counter-based), the same in any order and on any
device: appending tokens does not change earlier numbers, so a random rule stays causal. The entries
of a batch have different numbers, so a sequence routed alone differs from the same one in a batch.
The rule's name is part of the seed: two rules with the same seed have different numbers.
"""

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.validation import as_instance, as_int


def largest(scores: Tensor, count: int | Tensor) -> Tensor:
    """Mark the `count` largest entries along the last axis.

    Args:
        scores: (..., n); entries of -inf are never marked, so fewer than `count` may be.
        count: how many; an int, or whole numbers (...), one per line.

    Returns:
        Boolean (..., n). Among equal entries at the threshold those of lowest index are marked,
        on every device and for every dtype; `torch.topk` leaves that order open.

    Example:
        >>> lpr.routers.largest(torch.tensor([[3.0, 1.0, 3.0]]), 1).tolist()
        [[True, False, False]]
    """
    n = as_instance(scores, Tensor, "scores", "a tensor (..., n)").shape[-1]
    if scores.is_complex():
        raise InputError(f"scores: expected real numbers, got {scores.dtype}.")
    if isinstance(count, Tensor) and (count.is_floating_point() or count.is_complex()):
        raise InputError(f"count: expected whole numbers, one per line, got {count.dtype}.")
    if not isinstance(count, Tensor):
        count = as_int(count, "count", 0)
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


GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15, the odd step of SplitMix64


def check_seed(seed: int) -> int:
    """The seed as an int; `InputError` unless it is a whole number from 0 to 2**63 - 1."""
    return as_int(seed, "seed", 0, 2**63 - 1, "2**63 - 1")


def uniform(seed: int, shape: Sequence[int], device: torch.device, rule: str = "") -> Tensor:
    """A uniform number in the open interval (0, 1) for each position, float64, of that shape.

    Args:
        seed: from 0 to 2**63 - 1.
        shape: sizes of the axes; a number depends on the indices of its position, not on the sizes.
        device: of the result.
        rule: name of the rule; its CRC-32 is the first coordinate. "" adds none.
    """
    state = _start(seed, device)
    if rule:
        state = _step(state, torch.tensor(zlib.crc32(rule.encode()), device=device))
    for size in shape:
        state = _step(state[..., None], torch.arange(size, device=device))
    return _unit(state)


def uniform_by_number(seed: int, numbers: Tensor, count: int) -> Tensor:
    """`count` uniform numbers for each input, float64 (..., count), equal for equal inputs."""
    state = _step(~_start(seed, numbers.device), numbers.long())
    return _unit(_step(state[..., None], torch.arange(count, device=numbers.device)))


def normal(seed: int, shape: Sequence[int], device: torch.device, rule: str = "") -> Tensor:
    """A standard normal number for each position, float64; as `uniform`."""
    draws: Tensor = torch.special.ndtri(uniform(seed, shape, device, rule))
    return draws


def gumbel(seed: int, shape: Sequence[int], device: torch.device, rule: str = "") -> Tensor:
    """A standard Gumbel number for each position, float64; as `uniform`."""
    return -(-uniform(seed, shape, device, rule).log()).log()


def _start(seed: int, device: torch.device) -> Tensor:
    return _mixed(torch.tensor(check_seed(seed), dtype=torch.int64, device=device))


def _step(state: Tensor, index: Tensor) -> Tensor:
    """The state after one more coordinate."""
    return _mixed(state + (index + 1) * GOLDEN)


def _mixed(bits: Tensor) -> Tensor:
    """The mixing function of SplitMix64 (Steele, Lea and Flood 2014), with logical shifts."""
    bits = (bits ^ ((bits >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    bits = (bits ^ ((bits >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return bits ^ ((bits >> 31) & 0x1FFFFFFFF)


def _unit(bits: Tensor) -> Tensor:
    """The middles of 2**52 equal parts of (0, 1): all are float64 numbers, none is 0 or 1."""
    return (((bits >> 12) & 0xFFFFFFFFFFFFF).double() + 0.5) * 2.0**-52
