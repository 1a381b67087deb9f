"""What a problem has to know of its scores, gathered in one pass over chunks of rows."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.validation import refuse_nan_and_inf

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MASK_LIKE = 6e4
"""No lowest number of a dtype is smaller than this in size."""


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
        """The median best score of the tokens with a positive one; of all sizes if none has."""
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
