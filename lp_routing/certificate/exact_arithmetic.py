"""Sums of products without rounding: every finite float is an integer times a power of two."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

Number = float | Fraction
Dot = Callable[[Tensor, Tensor], Number]

MANTISSA_BITS = 53


def float_dot(a: Tensor, b: Tensor) -> float:
    """sum(a * b) in float64."""
    return float((a * b).sum())


def exact_dot(a: Tensor, b: Tensor) -> Fraction:
    """sum(a * b) as an exact fraction, for finite tensors of one shape."""
    relevant = (a != 0) & (b != 0)
    whole_a, power_a = _whole_parts(a[relevant])
    whole_b, power_b = _whole_parts(b[relevant])
    if not len(whole_a):
        return Fraction(0)
    powers = power_a + power_b
    lowest = int(powers.min())
    products = whole_a.astype(object) * whole_b.astype(object)
    total = int((products << (powers - lowest).astype(object)).sum())
    return Fraction(total) * Fraction(2) ** lowest


def grid_of(values: Tensor) -> int:
    """The largest p such that every finite entry is a whole multiple of 2**p; 0 if all are 0."""
    finite = values[values.isfinite() & (values != 0)]
    if not len(finite):
        return 0
    whole, powers = _whole_parts(finite)
    lowest_bit = np.frexp((whole & -whole).astype(np.float64))[1] - 1
    return int((powers + lowest_bit).min())


def round_to_grid(values: Tensor, power: int) -> Tensor:
    """Each entry of a float64 tensor rounded to the nearest whole multiple of 2**power."""
    exponent = torch.tensor(power, device=values.device)
    return torch.ldexp(torch.ldexp(values, -exponent).round(), exponent)


def _whole_parts(values: Tensor) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Integers w (int64) and powers p with values = w * 2**p."""
    mantissa, power = np.frexp(values.double().cpu().numpy())
    return np.ldexp(mantissa, MANTISSA_BITS).astype(np.int64), power.astype(
        np.int64
    ) - MANTISSA_BITS
