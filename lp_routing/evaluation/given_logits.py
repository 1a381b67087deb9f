"""What routers are called with where a problem is given by its scores: logits, never the scores.

A router's rule lies in its own scores as much as in its choice among them, so it is only itself
when it starts from logits.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.routers.base import Rule
from lp_routing.scores import check_logits

LOGITS, LOG_OF_SCORES, SCORES = "logits", "log of scores", "scores as logits"

SUM_TOLERANCE = 1e-2
"""Scores whose sum over each token's experts is 1 up to this are a softmax, in bfloat16 too."""

PROBED = 256
"""Whether a constant added to a token's logits matters is asked of this many tokens."""


@dataclass(frozen=True, eq=False)
class GivenLogits:
    """What routers are called with.

    Attributes:
        values: (T, E); None where no logits are known.
        words: where they come from: "logits", "log of scores" or "scores as logits"; "" where
            none are known.
    """

    values: Tensor | None
    words: str

    def refusal(self, router: Any) -> str:
        """Why a router cannot be judged with these, in words; "" where it can.

        From softmax scores a token's logits are known up to a constant, so a rule that minds it
        (a sigmoid, a ReLU) is refused. A plain function cannot be asked whether it does.
        """
        if self.values is None:
            return (
                "the scores are no softmax, so they do not tell the logits that routers go by; "
                "give logits=..., which are the scores where these are logits"
            )
        if self.words == LOG_OF_SCORES and isinstance(router, Rule):
            few = self.values[:PROBED]
            here, there = router.scores(few), router.scores(few + 1)
            if not torch.allclose(here, there, rtol=1e-3, atol=1e-5):
                return (
                    "its scores change with a constant added to a token's logits, which softmax "
                    "scores do not tell; give logits=..."
                )
        return ""


def given_logits(logits: Tensor | None, scores: Tensor) -> GivenLogits:
    """The logits that a caller gave, checked, or those that the problem's scores (T, E) tell.

    The log of softmax scores has these scores as its softmax. Scores of which some are negative
    are taken for logits, since no share and no gate is negative. Others tell nothing.

    Raises:
        InputError: bad logits, or logits of another shape than the scores.
    """
    if logits is not None:
        values = check_logits(logits).detach().to(scores.device)
        if values.shape != scores.shape:
            raise InputError(
                f"compare: expected logits of the shape of the problem's scores, "
                f"{tuple(scores.shape)}, got {tuple(values.shape)}."
            )
        return GivenLogits(values, LOGITS)
    forbidden = scores == float("-inf")
    worth = scores.masked_fill(forbidden, 0.0)
    if bool((worth < 0).any()):
        return GivenLogits(scores, SCORES)
    off = (worth.sum(-1) - 1).abs().masked_fill(forbidden.all(-1), 0.0)
    if bool((off <= SUM_TOLERANCE).all()):
        least = torch.finfo(scores.dtype).tiny  # the log of an underflow must not forbid the pair
        return GivenLogits(
            worth.clamp(min=least).log().masked_fill(forbidden, float("-inf")), LOG_OF_SCORES
        )
    return GivenLogits(None, "")
