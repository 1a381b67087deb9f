"""Argument validation, before anything is computed.

`as_scores` and the other `as_...` functions check types and shapes; `read_scores` reads a score
matrix once, in chunks of rows, refuses NaN and +inf, and returns facts about the scores.
"""

import math
import operator
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from os import PathLike
from pathlib import Path
from typing import Any, SupportsIndex, TypeVar

import numpy as np
import torch
from torch import Tensor

from lp_routing.errors import InputError

CHUNK = 1 << 20
"""Entries checked together.

Larger chunks need more memory, smaller ones more time: 8 million float32 on one core
take 15 ms at 2**18 to 2**22 and 32 ms at 2**14.
"""

Kind = TypeVar("Kind")
Scores = Tensor | np.ndarray[Any, Any] | Sequence[Sequence[float]]


def as_scores(scores: Scores, what: str = "scores") -> Tensor:
    """A (T, E) tensor of floats; integers become float64, everything else is kept, not copied.

    The entries of floats are not read: `read_scores` refuses NaN and +inf.

    Raises:
        InputError: no matrix, no real numbers, or empty; only where torch.distributed is
            initialised may a matrix have no rows, as the shard of a process group.
    """
    values = as_tensor(scores, what, "a matrix of numbers (tokens x experts)")
    if values.ndim != 2:
        raise InputError(
            f"{what}: expected a matrix (tokens x experts), got shape {tuple(values.shape)}; "
            f"take one layer, or reshape(-1, E)."
        )
    if values.shape[1] == 0 or (values.shape[0] == 0 and not _in_process_group()):
        raise InputError(
            f"{what}: got shape {tuple(values.shape)}; give at least one token and one expert "
            f"(only a shard of a process group may be without tokens)."
        )
    if values.is_complex() or values.dtype == torch.bool:
        raise InputError(f"{what}: expected real numbers, got {values.dtype}.")
    if not values.is_floating_point() and values.numel():
        whole_numbers = values.cpu().numpy()  # torch has no max of unsigned integers
        if max(int(whole_numbers.max()), -int(whole_numbers.min())) > 2**53:
            raise InputError(f"{what}: integers beyond 2**53 do not fit float64; rescale them.")
    if not values.is_floating_point():
        return values.double()
    return values.float() if values.dtype.itemsize == 1 else values  # torch adds no float8


def _in_process_group() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def as_tensor(values: Any, what: str, expected: str) -> Tensor:
    """Dense tensors unchanged; anything else through numpy, which reads floats as float64.

    Memory is shared where possible, with read-only and memory-mapped arrays too: nothing here
    writes to the caller's arrays. bfloat16 of numpy (`ml_dtypes`) becomes bfloat16 of torch.

    Raises:
        InputError: not an array of numbers, with `expected` in the message; a masked array with
            masked entries, whose mask would be lost.
    """
    _refuse_masked(values, what)
    try:
        if isinstance(values, Tensor):
            tensor = values.detach()
        elif _are_tensors(values):
            tensor = torch.stack([each.detach() for each in values])
        elif type(values) is float:  # a bound or a price: 3 us instead of 20
            return torch.tensor(values, dtype=torch.float64)
        else:
            array = np.asarray(values)
            if array.dtype.name == "bfloat16":
                return from_bfloat16(array)
            if not array.dtype.isnative or any(stride < 0 for stride in array.strides):
                array = array.astype(array.dtype.newbyteorder("="), order="C")
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "The given NumPy array is not writable")
                tensor = torch.as_tensor(array)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{what}: expected {expected}, got {type(values).__name__} that torch cannot read "
            f"({error})."
        ) from error
    refuse_not_dense(tensor, what, expected)
    return tensor


def _are_tensors(values: Any) -> bool:
    """Whether it is a list or tuple of tensors, which numpy cannot read in every dtype."""
    return (
        isinstance(values, list | tuple)
        and bool(values)
        and all(isinstance(each, Tensor) for each in values)
    )


def from_bfloat16(array: np.ndarray[Any, Any]) -> Tensor:
    """Two-byte entries of `ml_dtypes` as torch.bfloat16."""
    return torch.from_numpy(np.ascontiguousarray(array).view(np.int16)).view(torch.bfloat16)


def _refuse_masked(values: Any, what: str) -> None:
    """Raise on a masked array with masked entries, which numpy would read like any others."""
    parts = values if isinstance(values, list | tuple) else [values]
    if any(np.ma.is_masked(part) for part in parts if isinstance(part, np.ma.MaskedArray)):
        raise InputError(
            f"{what}: got a masked array with masked entries; say what they are, such as "
            f".filled(-numpy.inf) for forbidden pairs."
        )


def as_reals(values: Any, what: str, expected: str) -> Tensor:
    """As `as_tensor`, in float64; complex numbers are refused.

    Raises:
        InputError: what is no array of real numbers.
    """
    tensor = as_tensor(values, what, expected)
    if tensor.is_complex():
        raise InputError(f"{what}: expected real numbers, got {tensor.dtype}.")
    return tensor.double()


def refuse_not_dense(tensor: Tensor, what: str, expected: str = "numbers") -> None:
    """Raise on a tensor that is not dense, with a hint how to make it so."""
    kinds = {
        "meta": (tensor.is_meta, "give one that holds numbers"),
        "quantized": (tensor.is_quantized, "write .dequantize()"),
        str(tensor.layout): (tensor.layout != torch.strided, "write .to_dense()"),
    }
    for kind, (found, help_text) in kinds.items():
        if found:
            raise InputError(
                f"{what}: expected {expected} in a dense tensor, got a {kind} tensor; {help_text}."
            )


def refuse_nan_and_inf(values: Tensor, what: str) -> None:
    """Raise on NaN or +inf, naming the first place; -inf passes (it forbids a pair)."""
    if values.numel() == 0 or bool(values.max() < float("inf")):  # the largest with a NaN is NaN
        return
    step = max(1, CHUNK * len(values) // max(1, values.numel()))
    count, first = 0, None
    for start in range(0, len(values), step):
        part = values[start : start + step]
        bad = part.isnan() | (part == float("inf"))
        if bool(bad.any()):
            row, *rest = (int(i) for i in bad.nonzero()[0])
            first = first or (start + row, *rest)
            count += int(bad.sum())
    if first is not None:
        raise InputError(
            f"{what}{list(first)} is {float(values[first])} ({count} such entries): it must be "
            f"finite, or -inf to forbid a pair. Look for overflow where it is computed."
        )


MASK_NEAR, MASK_WITHIN = 1e9, 2e6
"""Logits within 2e6 of -1e9 are masks: bfloat16 rounds -1e9 by 1.8e6, and logits may be added."""


def forbid_masks(logits: Tensor) -> Tensor:
    """The logits with -inf in place of finite mask values, so that these forbid the pair.

    Mask values are the lowest finite numbers of half, bfloat16, single and double precision, also
    rounded to another of these, and -1e9. A new tensor, or the one given where there are none.
    """
    plain = logits.detach()
    plain = plain if plain.dtype == torch.float64 else plain.float()
    if plain.numel() == 0 or not bool(plain.min() <= -MASK_LIKE):
        return logits
    masks = (plain + MASK_NEAR).abs() <= MASK_WITHIN
    for number in LOWEST:
        masks |= plain == number
    return logits.masked_fill(masks, float("-inf")) if bool(masks.any()) else logits


def as_float(value: object, name: str, expected: str, fits: Callable[[float], bool]) -> float:
    """`value` as a float if it is a finite number that fits; no boolean, text, tensor or NaN."""
    real = isinstance(value, Real) and not isinstance(value, bool)
    if real and math.isfinite(found := float(value)) and fits(found):  # type: ignore[arg-type]
        return found
    raise InputError(f"{name}={value!r}: expected {expected}.")


def as_instance(value: Any, kind: type[Kind], what: str, expected: str) -> Kind:
    """`value` if it is of that type."""
    if not isinstance(value, kind):
        raise InputError(f"{what}: expected {expected}, got {type(value).__name__}.")
    return value


def as_path(value: Any, what: str) -> Path:
    """`value` as a path, if it is text or a path."""
    if not isinstance(value, str | PathLike) or not str(value):
        raise InputError(f"{what}={value!r}: expected the name of a file.")
    return Path(value)


def as_list(values: Any, what: str, expected: str) -> list[Any]:
    """The entries of a sequence; no text, no mapping."""
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise InputError(f"{what}: expected {expected}, got {type(values).__name__}.")
    if isinstance(values, Tensor | np.ndarray) and values.ndim == 0:
        raise InputError(f"{what}: expected {expected}, got a single number.")
    return list(values)


def as_rising(
    values: Any, name: str, smallest: int, largest: int | None = None, largest_is: str = ""
) -> list[int]:
    """`values` as whole numbers that rise, at least one, each between two limits."""
    listed = as_list(values, name, "whole numbers that rise")
    given = [as_int(n, name, smallest, largest, largest_is) for n in listed]
    if not given or sorted(set(given)) != given:
        raise InputError(f"{name}: expected whole numbers that rise, got {given}.")
    return given


def as_callable(value: Any, what: str, expected: str) -> Callable[..., Any]:
    """`value` if it can be called."""
    if not callable(value):
        raise InputError(f"{what}: expected {expected}, got {type(value).__name__}.")
    found: Callable[..., Any] = value
    return found


def as_share(value: float, name: str) -> float:
    """`value` as a number from 0 to below 1, such as a relative tolerance."""
    return as_float(
        value, name, "a number from 0 to below 1, such as 1e-9", lambda given: 0 <= given < 1
    )


def as_nonnegative(value: float, name: str) -> float:
    """`value` as a number >= 0, refusing NaN, infinity, booleans and everything else."""
    return as_float(value, name, "a number >= 0, such as 1e-9", lambda given: given >= 0)


def as_bool(value: bool, name: str) -> bool:
    """`value` as a bool, refusing text and numbers."""
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"{name}={value!r}: expected True or False.")
    return bool(value)


def as_choice(value: str, name: str, allowed: Sequence[str]) -> str:
    """`value` if it is one of the names allowed."""
    if not isinstance(value, str) or value not in allowed:
        names = " or ".join(f'"{choice}"' for choice in allowed)
        raise InputError(f"{name}={value!r}: expected {names}.")
    return value


def as_int(
    value: SupportsIndex | float,
    name: str,
    smallest: int,
    largest: int | None = None,
    largest_is: str = "",
) -> int:
    """`value` as an int between two limits, refusing fractions, booleans and everything else."""
    try:
        fits = isinstance(value, Real) and value == int(value)
        number = int(value) if fits else operator.index(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{name}={value!r}: expected a whole number.") from error
    if isinstance(value, bool):
        raise InputError(f"{name}={value!r}: expected a whole number.")
    if number < smallest:
        raise InputError(f"{name}={number}: it must be at least {smallest}.")
    if largest is not None and number > largest:
        raise InputError(f"{name}={number} is more than {largest_is} ({largest}).")
    return number


DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MASK_LIKE = 6e4
"""|Scores| of at least this are compared with the lowest number of each dtype, a usual mask.

The smallest of these is float16's, -65504; a lower limit would compare more chunks for nothing.
"""


LOWEST = tuple(
    sorted(
        {
            float(torch.tensor(torch.finfo(of).min, dtype=torch.float64).to(read_as))
            for of in DTYPES
            for read_as in DTYPES
        }
        - {float("-inf")}
    )
)
"""The lowest finite number of each dtype, exact and rounded to the others."""


@dataclass(frozen=True, eq=False)
class ScoreFacts:
    """Facts about a score matrix (T, E) that is free of NaN and +inf.

    Attributes:
        best: (T,) the best score of each row, -inf where the row allows no pair.
        allowed: int32 (T,) the number of pairs that each row allows.
        largest: the largest |score| of an allowed pair; 0 where all are 0 or forbidden.
        smallest: the smallest |score| of an allowed pair that is not 0; inf where there is none.
        mask: the dtype whose lowest finite number is among the scores, None where there is none.
    """

    best: Tensor
    allowed: Tensor
    largest: float
    smallest: float
    mask: torch.dtype | None

    @property
    def typical(self) -> float:
        """The median positive best score of the tokens; without any, the median |best score|."""
        served = self.best[self.best.isfinite()].double()
        served = served[served > 0] if bool((served > 0).any()) else served.abs()
        return float(served.median()) if len(served) else 0.0

    def refuse_masks(self) -> None:
        """Raise where a score is the lowest finite number of a dtype."""
        if self.mask is not None:
            raise InputError(
                f"scores: {torch.finfo(self.mask).min:g} is the lowest {self.mask} number, which "
                f"looks like a mask; write -inf to forbid a pair."
            )


def read_scores(scores: Tensor, row_chunks: Iterable[slice]) -> ScoreFacts:
    """Read scores (T, E) of any float dtype once, chunk by chunk, on their own device.

    Raises:
        InputError: NaN or +inf, with the first place and how many there are.
    """
    T, E = scores.shape
    best = torch.empty(T, dtype=_wide(scores.dtype), device=scores.device)
    allowed = torch.full((T,), E, dtype=torch.int32, device=scores.device)
    largest, smallest = 0.0, float("inf")
    masks: set[torch.dtype] = set()
    for rows in row_chunks:
        chunk = scores[rows].to(best.dtype)
        torch.amax(chunk, 1, out=best[rows])
        if not float(best[rows].max()) < float("inf"):  # the largest of numbers and NaN is NaN
            refuse_nan_and_inf(scores, "scores")
        sizes = chunk.abs()
        largest_here, smallest_here = float(sizes.max()), float(sizes.min())
        if largest_here == float("inf"):
            forbidden = sizes == float("inf")
            allowed[rows] -= forbidden.sum(1, dtype=torch.int32)
            largest_here = float(sizes.masked_fill(forbidden, 0).max())
        if smallest_here == 0:
            smallest_here = float(sizes.masked_fill_(sizes == 0, float("inf")).min())
        largest, smallest = max(largest, largest_here), min(smallest, smallest_here)
        if largest_here >= MASK_LIKE:
            masks |= _masks_in(scores[rows])
    mask = next((dtype for dtype in DTYPES if dtype in masks), None)
    return ScoreFacts(best, allowed, largest, smallest, mask)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Half precision is read as float32, which holds it exactly."""
    return torch.float32 if dtype.itemsize < 4 else dtype


def _masks_in(chunk: Tensor) -> set[torch.dtype]:
    """The dtypes whose lowest finite number, read in the chunk's own dtype, is in the chunk."""
    lowest = {
        dtype: torch.tensor(torch.finfo(dtype).min, dtype=torch.float64).to(chunk.dtype)
        for dtype in DTYPES
    }
    return {
        dtype
        for dtype, number in lowest.items()
        if bool(number.isfinite()) and bool((chunk == number.to(chunk.device)).any())
    }
