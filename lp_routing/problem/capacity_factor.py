"""The capacity factor: how many tokens an expert takes, relative to an equal share.

The same "capacity factor 1.25" means different numbers in different projects: rounding before or
after multiplying, up, down or half to even, with or without K.
"""

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real

from lp_routing.errors import InputError
from lp_routing.validation import as_int

MOST_TOKENS = 2**53
"""Largest total number of slots: float64 counts exactly up to here."""
Formula = Callable[[int, int, int, float], int]

CAPACITY_FORMULAS: dict[str, Formula] = {
    # f is the capacity factor; each formula keeps the order of operations of its source, since
    # another order rounds differently: T=100, E=10, K=1, f=1.1 gives 11 or 12.
    "switch": lambda T, E, K, f: min(T, int(T * f / E)),  # noqa: ARG005
    "flaxformer": lambda T, E, K, f: round(f * T / E),  # noqa: ARG005
    "vmoe": lambda T, E, K, f: math.ceil(T * K * f / E),
    "megatron": lambda T, E, K, f: math.ceil(T * K / E * f),
    "deepspeed": lambda T, E, K, f: math.ceil(_float32(_float32(T / E) * _float32(f * K))),
    "tutel": lambda T, E, K, f: K * int(f * -(-T // E)),
    "megablocks": lambda T, E, K, f: int(f * (K * T / E)),
}
"""(T, E, K, factor) -> capacity, by the project whose code computes it so.

switch: Mesh TensorFlow, moe.py (K plays no part). flaxformer: moe_layers.py (round half to even,
K plays no part). vmoe: moe.py, before its alignment. megatron: moe_utils.get_capacity, called with
T K tokens. deepspeed: sharded_moe._capacity, in float32. tutel: fast_dispatch.py, K outside.
megablocks: layers/moe.py, on one device.
"""


@dataclass(frozen=True)
class CapacityFactor:
    """A capacity relative to an equal share.

    Attributes:
        factor: 1.0 is just enough where loads are equal.
        formula: one of `CAPACITY_FORMULAS`.
        minimum: never less than this many tokens (4 in Switch, 8 in DeepSpeed's layer).
        alignment: rounded up to a multiple of this (4 in V-MoE).
    """

    factor: float
    formula: str = "megatron"
    minimum: int = 0
    alignment: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.formula, str) or self.formula not in CAPACITY_FORMULAS:
            raise InputError(
                f"capacity formula {self.formula!r} is unknown; choose one of "
                f"{', '.join(CAPACITY_FORMULAS)}."
            )
        number = isinstance(self.factor, Real) and not isinstance(self.factor, bool)
        if not number or not 0 < self.factor < math.inf:
            raise InputError(f"capacity factor {self.factor!r}: expected a positive number.")
        as_int(self.minimum, "minimum", 0)
        as_int(self.alignment, "alignment", 1)

    def of(self, tokens: int, experts: int, k: int) -> int:
        """The capacity C of each expert for T tokens, E experts and K experts per token."""
        tokens, experts = as_int(tokens, "tokens", 1), as_int(experts, "experts", 1)
        k = as_int(k, "k", 1)
        if self.factor * tokens * k > MOST_TOKENS:
            raise InputError(
                f"capacity factor {self.factor:g} asks for {self.factor * tokens * k:g} slots in "
                f"all; give one below {experts} (E), which never drops."
            )
        capacity = CAPACITY_FORMULAS[self.formula](tokens, experts, k, self.factor)
        return -(-max(capacity, self.minimum) // self.alignment) * self.alignment


def _float32(value: float) -> float:
    """The nearest float32, as a Python float."""
    return float(struct.unpack("f", struct.pack("f", value))[0])
