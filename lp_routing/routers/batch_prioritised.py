"""Batch prioritised routing (V-MoE): the tokens that weigh most are served first."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lp_routing.routers.base import Router, WeightedRule, kept_scores
from lp_routing.routers.capacity import (
    Capacity,
    check_capacity,
    keep_first_choices,
    resolve_capacity,
)
from lp_routing.routers.selection import largest
from lp_routing.validation import one_of, whole


@dataclass(frozen=True)
class BatchPrioritised(WeightedRule, Router):
    """Row top-k, then places given by the priority of the token (Riquelme et al. 2021, Alg. 2).

    All first choices before second ones, and among those of one rank the token of highest priority
    first; what comes when an expert is full is dropped. With k = 1 every expert keeps its best.

    It seeks the optimum of `capacity` and misses it in general. Not causal: a later token may come
    first. Cost: one `topk`, a sort of the tokens and a sort over the experts. To prioritise over a
    whole batch, flatten its sequences into one axis of tokens.

    Attributes:
        k: experts per token.
        capacity: most tokens an expert takes: a whole number, or a `CapacityFactor`.
        priority: of a token: "max", its best score (V-MoE's default); "sum", that of its top k.
        score: what is compared and weighs: a function or a name from `lp_routing.scores`.
        normalise: divide the weights of a token by the sum of its kept scores, or of all.
    """

    source = "Riquelme et al. 2021, Algorithm 2"
    seeks = "capacity"
    cost = "one topk, a sort of the tokens and a sort over the experts"
    causal = False

    k: int
    capacity: Capacity
    priority: Literal["max", "sum"] = "max"

    def __post_init__(self) -> None:
        whole(self.k, "k", 1)
        check_capacity(self.capacity)
        one_of(self.priority, "priority", ("max", "sum"))
        super().__post_init__()

    def select(self, scores: Tensor) -> Tensor:
        """Row top-k, then dropping by priority; boolean (..., T, E)."""
        k = whole(self.k, "k", 1, scores.shape[-1], "E, the number of experts")
        chosen = largest(scores, k)
        order = self._priority(scores, chosen).sort(descending=True, stable=True).indices
        rows = order[..., None].expand_as(scores)
        capacity = resolve_capacity(self.capacity, scores, k)
        kept = keep_first_choices(scores.gather(-2, rows), chosen.gather(-2, rows), capacity, k)
        return torch.empty_like(kept).scatter_(-2, rows, kept)

    def _priority(self, scores: Tensor, chosen: Tensor) -> Tensor:
        """(..., T); whoever may go nowhere asks for nothing, so that its place does not matter."""
        if self.priority == "max":
            return scores.amax(-1)
        return kept_scores(scores.double(), chosen).sum(-1)
