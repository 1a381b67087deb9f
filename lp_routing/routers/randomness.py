"""Random numbers as a function of a seed and a position: alike in any order, on any device.

A counter in place of a generator: appending tokens changes no earlier draw, so that a random rule
stays causal, and nothing is drawn on another device first. An entry of a batch has other draws
than its neighbours, and than it has alone. Rules with the same seed draw apart, each by its
name: two kinds of chance compared on one batch are not the same chance.
"""

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

from lp_routing.validation import whole

GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15, the odd step of SplitMix64


def check_seed(seed: int) -> int:
    """The seed as an int; `InputError` unless it is a whole number from 0 to 2**63 - 1."""
    return whole(seed, "seed", 0, 2**63 - 1, "2**63 - 1")


def uniform(seed: int, shape: Sequence[int], device: torch.device, rule: str = "") -> Tensor:
    """A draw from the open interval (0, 1) for each position, float64, of that shape.

    Args:
        seed: from 0 to 2**63 - 1.
        shape: sizes of the axes; the draw of a position depends on its indices, not on them.
        device: where it is drawn.
        rule: who draws; the CRC-32 of the name is the first coordinate. "" adds none.
    """
    state = _start(seed, device)
    if rule:
        state = _step(state, torch.tensor(zlib.crc32(rule.encode()), device=device))
    for size in shape:
        state = _step(state[..., None], torch.arange(size, device=device))
    return _unit(state)


def uniform_by_number(seed: int, numbers: Tensor, count: int) -> Tensor:
    """`count` draws for each number, float64 (..., count): equal numbers have equal draws.

    They are not the draws `uniform` gives to positions, so that a hash is no echo of chance.
    """
    state = _step(~_start(seed, numbers.device), numbers.long())
    return _unit(_step(state[..., None], torch.arange(count, device=numbers.device)))


def normal(seed: int, shape: Sequence[int], device: torch.device, rule: str = "") -> Tensor:
    """A draw from the standard normal distribution for each position, float64; as `uniform`."""
    draws: Tensor = torch.special.ndtri(uniform(seed, shape, device, rule))
    return draws


def gumbel(seed: int, shape: Sequence[int], device: torch.device, rule: str = "") -> Tensor:
    """A draw from the standard Gumbel distribution for each position, float64; as `uniform`."""
    return -(-uniform(seed, shape, device, rule).log()).log()


def _start(seed: int, device: torch.device) -> Tensor:
    return _mixed(torch.tensor(check_seed(seed), dtype=torch.int64, device=device))


def _step(state: Tensor, index: Tensor) -> Tensor:
    """The state after one more coordinate."""
    return _mixed(state + (index + 1) * GOLDEN)


def _mixed(bits: Tensor) -> Tensor:
    """The scrambling of SplitMix64 (Steele, Lea and Flood 2014), its shifts made logical."""
    bits = (bits ^ ((bits >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    bits = (bits ^ ((bits >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return bits ^ ((bits >> 31) & 0x1FFFFFFFF)


def _unit(bits: Tensor) -> Tensor:
    """The middles of 2**52 equal parts of (0, 1): all are float64 numbers, none is 0 or 1."""
    return (((bits >> 12) & 0xFFFFFFFFFFFFF).double() + 0.5) * 2.0**-52
