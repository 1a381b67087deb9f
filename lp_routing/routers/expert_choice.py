"""Expert choice: every expert takes its C best tokens."""

from dataclasses import dataclass

from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.routers.base import Router, ScoredRule
from lp_routing.routers.capacity import Capacity, check_capacity, resolve_capacity
from lp_routing.routers.selection import largest


@dataclass(frozen=True)
class ExpertChoice(ScoredRule, Router):
    """Column top-C (Zhou et al. 2022, eq. 2), the optimum of `expert_choice`.

    Not causal: whether a token is taken depends on all others. Cost: one `topk` over the tokens.

    Attributes:
        capacity: tokens each expert takes: a whole number, or a `CapacityFactor`, whose factor is
            then the mean number of experts per token (the paper's c, with K = 1).
        score: what is compared and weighs: a function or a name from `lp_routing.scores`.
    """

    source = "Zhou et al. 2022, eq. 2"
    seeks = "expert_choice"
    cost = "one topk over the tokens"
    causal = False

    capacity: Capacity

    def __post_init__(self) -> None:
        check_capacity(self.capacity)
        super().__post_init__()

    def select(self, scores: Tensor) -> Tensor:
        """Column top-C; boolean (..., T, E). Padding is never taken: an expert may stay short."""
        capacity = resolve_capacity(self.capacity, scores, k=1)
        if capacity > scores.shape[-2]:
            raise InputError(
                f"capacity={capacity} is more than T, the number of tokens ({scores.shape[-2]})."
            )
        return largest(scores.mT, capacity).mT
