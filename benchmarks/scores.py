"""Scores that benchmarks share."""

import numpy as np
import torch
from torch import Tensor


def skewed_scores(T: int, E: int, seed: int) -> Tensor:
    """Softmax of low-rank logits with an expert bias, float32 (T, E): some experts are popular."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(T, 8)) @ rng.normal(size=(8, E)) + rng.normal(size=E)
    return torch.softmax(torch.as_tensor(logits, dtype=torch.float32), 1)
