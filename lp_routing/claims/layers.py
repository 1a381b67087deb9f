"""What claims about balance share: the tokens they look at, optima, and numbers layer by layer."""

import math
from collections.abc import Sequence

from torch import Tensor

from lp_routing.claims.claim import Evidence, Number, Subject
from lp_routing.pricing import Pricing
from lp_routing.problem.named import balanced
from lp_routing.solvers.solution import Solution
from lp_routing.solvers.solve import solve

SLACK = 1e-9
"""Rounding that float64 sums may show, relative to their size."""


def equally_shared(subject: Subject, k: int, most: int | None = None) -> Tensor | None:
    """The first tokens of every layer, as many as give all experts the same load.

    Args:
        subject: logits (L, T, E).
        k: experts per token.
        most: tokens, where a check would be slow with more.

    Returns:
        (L, T', E) with T' k a multiple of E, or None where there are too few tokens for that.
    """
    _, T, E = subject.shape
    step = E // math.gcd(E, k)
    room = T if most is None else min(T, max(most, step))
    return subject.logits[:, : room // step * step] if room >= step else None


def too_few(k: int) -> Evidence:
    """Nothing to ask: no number of these tokens gives every expert the same load."""
    return Evidence(None, f"Too few tokens for equal loads with k={k}: nothing to ask.")


def balanced_optimum(scores: Tensor, k: int) -> Solution:
    """The optimum of `balanced` for scores (T, E), with prices that prove it."""
    return solve(balanced(scores, k), Pricing())


def rounding(value: float) -> float:
    """By how much a sum of this size may be off."""
    return SLACK * (1 + abs(value))


def by_layer(name: str, values: Sequence[Number]) -> dict[str, Number]:
    """The numbers of the layers under their names: `name, layer 0`, ..."""
    return {f"{name}, layer {layer}": value for layer, value in enumerate(values)}


def span(values: Sequence[float], digits: int = 3) -> str:
    """The smallest to the largest of some numbers, in words: "1.2 to 3.4", or one number.

    Counts, which are int, are written out.
    """
    low, high = (_in_digits(extreme(values), digits) for extreme in (min, max))
    return low if low == high else f"{low} to {high}"


def _in_digits(value: float, digits: int) -> str:
    return f"{value}" if isinstance(value, int) else f"{value + 0.0:.{digits}g}"  # no -0


def share_below(value: float, optimum: float) -> float:
    """By how many per cent of an optimum a value lies below it, to nine places."""
    return -share_above(value, optimum) + 0.0  # no -0


def share_above(value: float, optimum: float) -> float:
    """By how many per cent of an optimum a value lies above it, to nine places.

    What is less is rounding. Of an optimum of 0 the value itself, times 100.
    """
    return round(100 * (value - optimum) / (abs(optimum) or 1.0), 9) + 0.0  # no -0
