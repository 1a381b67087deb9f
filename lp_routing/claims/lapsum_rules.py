"""What the claims about LapSum share: the lines they look at, and widths."""

from torch import Tensor

from lp_routing.claims.claim import Evidence, Subject

PAPER = "LapSum, Struski et al., ICML 2025, arXiv 2503.06242"
WIDTHS = (0.1, 0.5, 2.0)
"""Widths at which the operator is looked at, in units of the logits."""
SLACK = 1e-9
FIRST = 256
"""Tokens of each layer that are looked at."""


def lines(subject: Subject) -> Tensor | None:
    """The first tokens of each layer, (L, T', E); None with one expert: no k is between 0 and E."""
    return subject.logits[:, :FIRST] if subject.shape[2] > 1 else None


def nothing_to_ask() -> Evidence:
    """One expert leaves no mass between 0 and E."""
    return Evidence(None, "With one expert there is no k between 0 and E: nothing to ask.")
