"""Unified routing (USMoE): the best pairs of a pool of tokens."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.routers.base import Normalise, Router, check_normalise, normalised
from lp_routing.routers.catalogue import register
from lp_routing.routers.selection import largest
from lp_routing.scores import ScoreFunction, check_rate, masked, unified, unified_v1
from lp_routing.validation import as_bool, as_choice, as_float, as_int


@register(
    "Unified",
    {
        "unified-probability": lambda s: Unified(s.k, rate=0.0),
        "unified-usmoe": lambda s: Unified(s.k),
        "served-probability": lambda s: Unified(s.k, rate=0.0, serve_all=True),
        "served-usmoe": lambda s: Unified(s.k, serve_all=True),
    },
)
@dataclass(frozen=True)
class Unified(Router):
    """The N = round(k * tokens of the pool) best pairs of a pool (Do, Le, Tran, arXiv 2503.22996).

    It is the optimum of `unified`, and with `serve_all` of `served_unified`. Not causal: the
    threshold depends on later tokens; with one token in a pool it is token choice. Cost: one `topk`
    over the flattened pool.

    Attributes:
        k: mean number of experts per token, a fraction too: the paper's flexible budget, 1.5.
        rate: weight of the second score; 0 gives the softmax over experts.
        pool: "sequence" pools the last two axes; "batch" everything; "step" the batch at each
            position (axes (B, T, E)), as the authors' from-scratch model does by its layout.
        version: "sigmoid", the released score; "v1", with a softmax over tokens; or
            "v1-normalised", with that divided by its sum over experts, as in the older lines that
            the released files keep as comments. Which of the two v1 printed is not known.
        serve_all: give every real token its best expert first, then fill the budget.
        padding: "excluded", or "competes" as in the authors' code: padding is scored, pooled and
            counted in N like real tokens.
        normalise: None; "kept" divides a token's weights by the sum of its kept scores; "all" by
            that of all its scores, as the authors' code does under the name norm_topk_prob.
    """

    source = "Do, Le, Tran 2025, arXiv 2503.22996 and its code"
    cost = "one topk over the flattened pool"
    causal = False

    k: float
    rate: float = 0.5
    pool: Literal["sequence", "batch", "step"] = "sequence"
    version: Literal["sigmoid", "v1", "v1-normalised"] = "sigmoid"
    serve_all: bool = False
    padding: Literal["excluded", "competes"] = "excluded"
    normalise: Normalise = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        as_bool(self.serve_all, "serve_all")
        _check_mean(self.k, serve_all=self.serve_all)
        check_rate(self.rate)
        check_normalise(self.normalise)
        for name, allowed in _CHOICES.items():
            as_choice(getattr(self, name), name, allowed)

    @property
    def seeks(self) -> str:
        """`unified`, or `served_unified` where all are served."""
        return "served_unified" if self.serve_all else "unified"

    def scores(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """The unified score of the version, (..., T, E)."""
        score: ScoreFunction = partial(_SCORES[self.version], rate=self.rate)
        if self.padding == "competes":
            masked(logits, mask)
            return score(logits, None)
        return score(logits, mask)

    def select(self, scores: Tensor) -> Tensor:
        """Top-N of each flattened pool; boolean (..., T, E)."""
        E = scores.shape[-1]
        if self.k > E:
            raise InputError(f"k={self.k:g} is more than E, the number of experts ({E}).")
        pooled = self._pooled(scores)
        served = (
            largest(pooled, 1) if self.serve_all else torch.zeros_like(pooled, dtype=torch.bool)
        )
        tokens = (pooled > float("-inf")).any(-1).sum(-1)
        flat = pooled.masked_fill(served, float("-inf")).flatten(-2)
        left = (self.k * tokens.double()).round().long() - served.flatten(-2).sum(-1)
        same = int(left.flatten()[0])
        count = same if bool((left == same).all()) else left
        chosen = served | largest(flat, count).view_as(pooled)
        return self._unpooled(chosen, scores)

    def weigh(self, scores: Tensor, chosen: Tensor) -> Tensor:
        """Unified scores of the kept pairs, divided as `normalise` says; (..., T, E)."""
        return normalised(scores, chosen, self.normalise)

    def _pooled(self, scores: Tensor) -> Tensor:
        """(pools..., tokens of a pool, E)."""
        if self.pool == "step":
            if scores.ndim != 3:
                raise InputError(
                    f'pool="step" needs logits (batch, tokens, experts), got shape '
                    f"{tuple(scores.shape)}."
                )
            return scores.transpose(0, 1)
        return scores.flatten(0, -2) if self.pool == "batch" else scores

    def _unpooled(self, chosen: Tensor, scores: Tensor) -> Tensor:
        return chosen.transpose(0, 1) if self.pool == "step" else chosen.reshape(scores.shape)


def _check_mean(k: float, *, serve_all: bool) -> None:
    """A whole number from 1 on, or a fraction above 0, at least 1 where all are served."""
    if not isinstance(k, float) or k.is_integer():
        as_int(k, "k", 1)
        return
    expected = (
        "a number of at least 1, as all tokens are served" if serve_all else "a number above 0"
    )
    as_float(k, "k", expected, lambda given: given >= 1 if serve_all else given > 0)


_SCORES: dict[str, Callable[..., Tensor]] = {
    "sigmoid": unified,
    "v1": unified_v1,
    "v1-normalised": partial(unified_v1, per_token=True),
}
_CHOICES = {
    "pool": ("sequence", "batch", "step"),
    "version": tuple(_SCORES),
    "padding": ("excluded", "competes"),
}
