"""What is asked of numbers at the door, before anything is computed with them."""

import operator
from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
import torch
from torch import Tensor

from lp_routing.errors import InputError

Scores = Tensor | np.ndarray[Any, Any] | Sequence[Sequence[float]]


def check_scores(scores: Scores, what: str = "scores") -> Tensor:
    """A (T, E) tensor without NaN or +inf; integers become float64, everything else is kept.

    Raises:
        InputError: with what was received.
    """
    try:
        values = as_tensor(scores).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{what}: expected a matrix of numbers (tokens x experts), got {type(scores).__name__} "
            f"that torch cannot read ({error})."
        ) from error
    if values.ndim != 2:
        raise InputError(
            f"{what}: expected a matrix (tokens x experts), got shape {tuple(values.shape)}; "
            f"take one layer, or reshape(-1, E)."
        )
    if values.numel() == 0:
        raise InputError(
            f"{what}: got shape {tuple(values.shape)}; give at least one token and one expert."
        )
    if values.is_complex() or values.dtype == torch.bool:
        raise InputError(f"{what}: expected real numbers, got {values.dtype}.")
    if not values.is_floating_point():
        if int(values.abs().max()) > 2**53:
            raise InputError(f"{what}: integers beyond 2**53 do not fit float64; rescale them.")
        values = values.double()
    refuse_nan_and_inf(values, what)
    return values


def as_tensor(values: Any) -> Tensor:
    """Tensors as they are, anything else by way of numpy, which reads Python floats as float64."""
    return values if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))


def refuse_nan_and_inf(values: Tensor, what: str) -> None:
    """Raise on NaN or +inf, naming the first place; -inf passes (it forbids a pair)."""
    bad = values.isnan() | (values == float("inf"))
    if bool(bad.any()):
        where = tuple(int(i) for i in bad.nonzero()[0])
        raise InputError(
            f"{what}{list(where)} is {float(values[where])} ({int(bad.sum())} such entries): it "
            f"must be finite, or -inf to forbid a pair. Look for overflow where it is computed."
        )


def whole(
    value: SupportsIndex | float,
    name: str,
    smallest: int,
    largest: int | None = None,
    largest_is: str = "",
) -> int:
    """`value` as an int between two limits, refusing fractions, booleans and everything else."""
    try:
        number = int(value) if isinstance(value, float) and value == int(value) else None
        number = operator.index(value) if number is None else number  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{name}={value!r}: expected a whole number.") from error
    if isinstance(value, bool):
        raise InputError(f"{name}={value!r}: expected a whole number.")
    if number < smallest:
        raise InputError(f"{name}={number}: it must be at least {smallest}.")
    if largest is not None and number > largest:
        raise InputError(f"{name}={number} is more than {largest_is} ({largest}).")
    return number
