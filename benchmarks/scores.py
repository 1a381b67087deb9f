"""Scores that benchmarks share."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

ROWS_AT_A_TIME = 1 << 16
"""Rows drawn together: 32 MiB of float64 with 64 experts, small beside the result."""


def skewed_scores(T: int, E: int, seed: int) -> Tensor:
    """Softmax of `skewed_logits`, float32 (T, E), without holding the logits beside it."""
    return _filled(T, E, seed, lambda logits: torch.softmax(logits, 1))


def skewed_logits(T: int, E: int, seed: int) -> Tensor:
    """Low-rank logits with an expert bias, float32 (T, E): some experts are popular."""
    return _filled(T, E, seed, lambda logits: logits)


def _filled(T: int, E: int, seed: int, made_of: Callable[[Tensor], Tensor]) -> Tensor:
    """Made some rows at a time, so that little more memory is used than the result itself takes."""
    rng = np.random.default_rng(seed)
    tokens, experts, bias = rng.normal(size=(T, 8)), rng.normal(size=(8, E)), rng.normal(size=E)
    result = torch.empty(T, E)
    for start in range(0, T, ROWS_AT_A_TIME):
        rows = slice(start, start + ROWS_AT_A_TIME)
        logits = torch.as_tensor(tokens[rows] @ experts + bias, dtype=torch.float32)
        result[rows] = made_of(logits)
    return result
