"""What a finding is, and the batch on which most of them are shown."""

from dataclasses import dataclass

import torch
from torch import Tensor

T, E, K = 64, 8, 2
BATCHES = 200
"""Random batches tried where a difference depends on chance."""


@dataclass(frozen=True)
class Finding:
    """A difference between what a peer's code does and what its name or its rule says.

    Attributes:
        name: a few words.
        seen: whether the installed version shows it.
        sentence: what was run and what came out.
        figures: the numbers in the sentence, by name.
    """

    name: str
    seen: bool
    sentence: str
    figures: dict[str, float]


def normal(seed: int, tokens: int = T, experts: int = E) -> Tensor:
    """Standard normal logits (tokens, experts), float32."""
    return torch.randn(tokens, experts, generator=torch.Generator().manual_seed(seed))
