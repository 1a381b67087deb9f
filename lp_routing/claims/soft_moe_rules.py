"""SoftMoE (Zasada et al. 2026): the settings and budgets with which its claims are checked."""

import torch
from torch import Tensor

from lp_routing.claims.claim import Evidence, Subject
from lp_routing.routers.soft_top_k import layer_budgets

PAPER = "SoftMoE, Zasada et al., ICML 2026, arXiv 2606.17952"
ALPHA = 0.1
"""Width of the edge, in standard deviations of a layer's logits."""
TAU = 0.1
"""Where p is truncated."""


def in_deviations(logits: Tensor) -> Tensor:
    """Logits (L, T, E) about their token's mean, in standard deviations of their layer.

    To shift a token changes nothing; the unit makes one width fit all layers.
    """
    centred = logits - logits.mean(-1, keepdim=True)
    spread = centred.std((-2, -1), correction=0, keepdim=True)
    return centred / spread.masked_fill(spread == 0, 1.0)


def drawn_budgets(subject: Subject) -> tuple[Tensor, float] | None:
    """k_l (L,) of a drawn eta, and B: k L, or the most that SoftMoE's map can keep below E."""
    L, _, E = subject.shape
    B = min(max(subject.k, 1.5) * L, E + L - 1.5)
    if B <= L:
        return None
    draws = torch.Generator().manual_seed(subject.seed)
    eta = torch.randn(L, generator=draws, dtype=torch.float64).to(subject.logits.device)
    return layer_budgets(eta, B, E), B


NO_CHOICE = Evidence(None, "With one expert there is no budget to choose.")
