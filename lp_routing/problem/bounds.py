"""Bounds on the pairs of a token, an expert, a group or the batch, in four forms."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.validation import as_reals, as_tensor

Amount = float | Sequence[float] | np.ndarray[Any, Any] | Tensor


MOST_PAIRS = 2**53
"""Pairs: float64 holds every whole number up to here, so larger bounds are refused."""


@dataclass(frozen=True)
class Bounds:
    """`lower <= amount <= upper`, each a number or one per row; made by the functions below."""

    lower: Amount
    upper: Amount
    words: str

    def per_row(self, rows: int, argument: str, row: str) -> tuple[Tensor, Tensor]:
        """Both bounds as float64 tensors (rows,), one entry for each `row` ("token", "expert").

        Raises:
            InputError: not numbers, negative, wrong length, or lower above upper.
        """
        lower = self._one_side(self.lower, rows, argument, row)
        upper = self._one_side(self.upper, rows, argument, row)
        if torch.isinf(lower).any():
            raise InputError(f"{argument}={self.words}: a lower bound must be finite.")
        crossed = (lower > upper).nonzero().flatten()
        if len(crossed):
            i = int(crossed[0])
            where = f" (first at {row} {i})" if rows > 1 else ""
            raise InputError(
                f"{argument}={self.words} contradicts itself: at least {lower[i]:g} and at most "
                f"{upper[i]:g}{where}. Write between(smaller, larger)."
            )
        return lower, upper

    def _one_side(self, amount: Amount, rows: int, argument: str, row: str) -> Tensor:
        what = f"{argument}={self.words}"
        given = as_tensor(amount, what, f"a number or one per {row}")
        if given.dtype == torch.bool:
            raise InputError(f"{what}: expected numbers, got booleans.")
        values = as_reals(given, what, "numbers").cpu()
        if values.ndim > 1 or (values.ndim == 1 and len(values) != rows):
            raise InputError(
                f"{argument}={self.words}: expected one number or {rows} (one per {row}), "
                f"got shape {tuple(values.shape)}."
            )
        if torch.isnan(values).any() or (values < 0).any():
            worst = values[torch.isnan(values) | (values < 0)].flatten()[0]
            raise InputError(
                f"{argument}={self.words}: a bound counts token-expert pairs, so it cannot be "
                f"{worst:g}; give a number >= 0."
            )
        finite = values[values.isfinite()]
        if bool((finite > MOST_PAIRS).any()):
            raise InputError(
                f"{argument}={self.words}: {finite.max():g} pairs are more than can be counted "
                f"exactly (2**53); leave the bound out."
            )
        return values.expand(rows)  # a single number for all rows is expanded without a copy


def exactly(amount: Amount) -> Bounds:
    """`= amount`: one number for all rows, or one per row. Unit: token-expert pairs.

    Example:
        >>> problem = lpr.RoutingProblem([[3, 1], [2, 1]], tokens=lpr.exactly([1, 2]))
        >>> lpr.solve(problem).value
        6.0
    """
    return Bounds(amount, amount, f"exactly({_short(amount)})")


def at_most(amount: Amount) -> Bounds:
    """`<= amount`: one number for all rows, or one per row. Unit: token-expert pairs.

    Example:
        >>> problem = lpr.RoutingProblem([[3, 1], [2, 1]], experts=lpr.at_most([1, 2]))
        >>> lpr.solve(problem).value
        5.0
    """
    return Bounds(0.0, amount, f"at_most({_short(amount)})")


def at_least(amount: Amount) -> Bounds:
    """`>= amount`: one number for all rows, or one per row. Unit: token-expert pairs.

    Example:
        >>> problem = lpr.RoutingProblem([[-3, -1], [-2, -1]], tokens=lpr.at_least(1))
        >>> lpr.solve(problem).value
        -2.0
    """
    return Bounds(amount, float("inf"), f"at_least({_short(amount)})")


def between(lower: Amount, upper: Amount) -> Bounds:
    """`lower <= ... <= upper`: numbers, or one per row. Unit: token-expert pairs.

    Example:
        >>> problem = lpr.RoutingProblem([[-3, -1], [2, 1]], total=lpr.between(1, 3))
        >>> lpr.solve(problem).value
        3.0
    """
    return Bounds(lower, upper, f"between({_short(lower)}, {_short(upper)})")


def _short(amount: Amount) -> str:
    shape = getattr(amount, "shape", None)
    if shape:
        return f"<{'x'.join(map(str, shape))} values>"
    if isinstance(amount, Sequence) and len(amount) > 6:
        return f"<{len(amount)} values>"
    return str(amount.item() if isinstance(amount, Tensor | np.ndarray) else amount)
