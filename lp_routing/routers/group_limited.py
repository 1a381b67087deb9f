"""Group-limited token choice: at most M groups of experts per token, found by a proxy."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.routers.base import Router, WeightedRule
from lp_routing.routers.selection import largest
from lp_routing.validation import one_of, whole


@dataclass(frozen=True)
class GroupLimited(WeightedRule, Router):
    """The best k experts inside the M best groups, groups being devices or nodes.

    It seeks the best k experts per token out of at most M = `top_groups` groups, a problem without
    a whole LP (scores (10, 7, 7 | 12, 2, 0) with k = 2 and M = 1 are worth 17, and 18 as an LP),
    and misses its optimum in general: which groups are open is decided by a proxy. The proxy is
    right with "max" where k <= M (the result is row top-k) and with "top2" where k = 2, M = 1.
    A token may get fewer than k where its open groups hold fewer allowed experts. Causal. Cost: one
    `topk` over the groups' experts, one over the groups, one over the experts.

    DeepSeek-V2 is rank_by="max", score="softmax"; DeepSeek-V3 rank_by="top2" (its paper: the
    k / M best, which is two there), score="sigmoid", normalise="kept", without its bias.

    Attributes:
        k: experts per token.
        groups: G, groups of equal size: experts 0 to E/G - 1, and so on.
        top_groups: M, groups per token at most.
        rank_by: what a group is worth: "max", its best score; "top2", the sum of its two best.
            Forbidden experts add nothing; a group without allowed ones is never open.
        score: what is compared and weighs: a function or a name from `lp_routing.scores`.
        normalise: divide the weights of a token by the sum of its kept scores, or of all.
    """

    source = "DeepSeek-V2 2024, device-limited routing; DeepSeek-V3 2024, node-limited routing"
    seeks = ""  # no named problem limits the groups of a token
    cost = "three topk: inside the groups, over the groups, over the experts"
    causal = True

    k: int
    groups: int
    top_groups: int
    rank_by: Literal["max", "top2"] = "max"

    def __post_init__(self) -> None:
        whole(self.k, "k", 1)
        groups = whole(self.groups, "groups", 1)
        whole(self.top_groups, "top_groups", 1, groups, "groups, the number of groups")
        one_of(self.rank_by, "rank_by", ("max", "top2"))
        super().__post_init__()

    def select(self, scores: Tensor) -> Tensor:
        """Top-k inside the open groups; boolean (..., T, E).

        Raises:
            InputError: the groups do not divide E, or hold fewer than k experts.
        """
        E, groups = scores.shape[-1], whole(self.groups, "groups", 1)
        if E % groups:
            raise InputError(
                f"groups={groups} does not divide E, the number of experts ({E}); give a divisor."
            )
        top_groups = whole(self.top_groups, "top_groups", 1)
        k = whole(self.k, "k", 1, top_groups * E // groups, f"the experts of {top_groups} group(s)")
        inside = scores.reshape(*scores.shape[:-1], groups, E // groups)
        closed = ~largest(self._worth(inside), top_groups)
        return largest(inside.masked_fill(closed[..., None], float("-inf")).flatten(-2), k)

    def _worth(self, inside: Tensor) -> Tensor:
        """The proxy of each group, (..., T, G)."""
        if self.rank_by == "max":
            return inside.amax(-1)
        best = inside.topk(min(2, inside.shape[-1])).values.double()
        nobody = best == float("-inf")
        return best.masked_fill(nobody, 0.0).sum(-1).masked_fill(nobody.all(-1), float("-inf"))
