"""Token choice: every token takes its k best experts, as far as their capacity goes."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from lp_routing.routers.base import Router, WeightedRule
from lp_routing.routers.capacity import (
    Capacity,
    CapacityFactor,
    check_capacity,
    keep_by_score,
    keep_first_choices,
    keep_first_tokens,
    resolve_capacity,
)
from lp_routing.routers.selection import largest
from lp_routing.validation import one_of, whole


@dataclass(frozen=True)
class TopK(WeightedRule, Router):
    """Row top-k (Shazeer et al. 2017), optionally dropping what exceeds a capacity.

    Without capacity it is the optimum of `token_choice`; with one it seeks that of `capacity` and
    misses it in general. Causal without capacity, and with `by="position", order="token"` and a
    capacity in tokens (a `CapacityFactor` grows with T).

    The softmax of float32 logits underflows some 104 below a token's best: experts further down
    score 0 alike, and ties go to the lowest index, not to the larger logit. On 4,096 x 32 normal
    logits of standard deviation 2, times 60, k = 2, 12.5 % of the tokens get other experts than
    with score="logits"; none on the logits as they stand. Give large logits in float64, or score
    them by "logits".
    Cost: one `topk`; with capacity one more over the tokens, or a sort over the experts.

    Attributes:
        k: experts per token.
        capacity: most tokens an expert takes: a whole number, a `CapacityFactor`, or None.
        by: who is kept where too many come: "score", the best; "position", the first.
        order: what comes first by position: "rank", all first choices before second ones (GShard,
            Switch, V-MoE, Tutel); "token", all choices of a token before the next (MegaBlocks).
        score: what is compared and weighs: a function or a name from `lp_routing.scores`.
        normalise: divide the weights of a token by the sum of its kept scores, or of all. Without
            capacity, "kept" with the softmax is the softmax taken after the top-k (Mixtral).
    """

    source = "Shazeer et al. 2017, eq. 5; Lepikhin et al. 2021 (capacity)"
    cost = "one topk; with capacity one more over the tokens, or a sort over the experts"

    k: int
    capacity: Capacity | None = None
    by: Literal["score", "position"] = "score"
    order: Literal["rank", "token"] = "rank"

    def __post_init__(self) -> None:
        whole(self.k, "k", 1)
        if self.capacity is not None:
            check_capacity(self.capacity)
        one_of(self.by, "by", ("score", "position"))
        one_of(self.order, "order", ("rank", "token"))
        super().__post_init__()

    @property
    def seeks(self) -> str:
        """`capacity` with one, else `token_choice`."""
        return "token_choice" if self.capacity is None else "capacity"

    @property
    def causal(self) -> bool:
        """Without capacity, and where places go token by token up to a fixed capacity."""
        first_come = self.by == "position" and self.order == "token"
        return self.capacity is None or (
            first_come and not isinstance(self.capacity, CapacityFactor)
        )

    def select(self, scores: Tensor) -> Tensor:
        """Row top-k, then dropping; boolean (..., T, E)."""
        k = whole(self.k, "k", 1, scores.shape[-1], "E, the number of experts")
        chosen = largest(scores, k)
        if self.capacity is None:
            return chosen
        capacity = resolve_capacity(self.capacity, scores, k)
        if self.by == "score":
            return keep_by_score(scores, chosen, capacity)
        if self.order == "token":
            return keep_first_tokens(chosen, capacity)
        return keep_first_choices(scores, chosen, capacity, k)
