"""Scores that benchmarks share."""

import numpy as np
import torch
from torch import Tensor

ROWS_AT_A_TIME = 1 << 16


def skewed_scores(T: int, E: int, seed: int) -> Tensor:
    """Softmax of low-rank logits with an expert bias, float32 (T, E): some experts are popular.

    Built some rows at a time, so that little more memory is used than the scores themselves take.
    """
    rng = np.random.default_rng(seed)
    tokens, experts, bias = rng.normal(size=(T, 8)), rng.normal(size=(8, E)), rng.normal(size=E)
    scores = torch.empty(T, E)
    for start in range(0, T, ROWS_AT_A_TIME):
        rows = slice(start, start + ROWS_AT_A_TIME)
        logits = torch.as_tensor(tokens[rows] @ experts + bias, dtype=torch.float32)
        scores[rows] = torch.softmax(logits, 1)
    return scores
