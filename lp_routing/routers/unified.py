"""Unified routing (USMoE): the best pairs of a pool of tokens."""

from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.routers.base import Normalise, Router, check_normalise, normalised
from lp_routing.routers.catalogue import register
from lp_routing.routers.selection import largest
from lp_routing.scores import check_rate, masked, unified, unified_v1
from lp_routing.validation import as_bool, as_choice, as_int


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
    """The N = k * (tokens in the pool) best pairs of each pool (Do, Le, Tran, arXiv 2503.22996).

    It is the optimum of `unified`, and with `serve_all` of `served_unified`. Not causal: the
    threshold depends on later tokens; with one token in a pool it is token choice. Cost: one `topk`
    over the flattened pool.

    Attributes:
        k: mean number of experts per token.
        rate: weight of the second score; 0 gives the softmax over experts.
        pool: "sequence" pools the last two axes; "batch" everything; "step" the batch at each
            position (axes (B, T, E)), as the authors' from-scratch model does by its layout.
        version: "sigmoid", the released score, or "v1", with a softmax over tokens.
        serve_all: give every real token its best expert first, then fill the budget.
        padding: "excluded", or "competes" as in the authors' code: padding is scored, pooled and
            counted in N like real tokens.
        normalise: None; "kept" divides a token's weights by the sum of its kept scores; "all" by
            that of all its scores, as the authors' code does under the name norm_topk_prob.
    """

    source = "Do, Le, Tran 2025, arXiv 2503.22996 and its code"
    cost = "one topk over the flattened pool"
    causal = False

    k: int
    rate: float = 0.5
    pool: Literal["sequence", "batch", "step"] = "sequence"
    version: Literal["sigmoid", "v1"] = "sigmoid"
    serve_all: bool = False
    padding: Literal["excluded", "competes"] = "excluded"
    normalise: Normalise = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        as_int(self.k, "k", 1)
        check_rate(self.rate)
        check_normalise(self.normalise)
        for name, allowed in _CHOICES.items():
            as_choice(getattr(self, name), name, allowed)
        as_bool(self.serve_all, "serve_all")

    @property
    def seeks(self) -> str:
        """`unified`, or `served_unified` where all are served."""
        return "served_unified" if self.serve_all else "unified"

    def scores(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """The unified score of either version, (..., T, E)."""
        score = partial(unified if self.version == "sigmoid" else unified_v1, rate=self.rate)
        if self.padding == "competes":
            masked(logits, mask)
            return score(logits, None)
        return score(logits, mask)

    def select(self, scores: Tensor) -> Tensor:
        """Top-N of each flattened pool; boolean (..., T, E)."""
        k = as_int(self.k, "k", 1, scores.shape[-1], "E, the number of experts")
        pooled = self._pooled(scores)
        served = (
            largest(pooled, 1) if self.serve_all else torch.zeros_like(pooled, dtype=torch.bool)
        )
        tokens = (pooled > float("-inf")).any(-1).sum(-1)
        flat = pooled.masked_fill(served, float("-inf")).flatten(-2)
        left = k * tokens - served.flatten(-2).sum(-1)
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


_CHOICES = {
    "pool": ("sequence", "batch", "step"),
    "version": ("sigmoid", "v1"),
    "padding": ("excluded", "competes"),
}
